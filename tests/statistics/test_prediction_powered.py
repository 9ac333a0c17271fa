import numpy as np
import pytest
from scipy import stats

from alignbench.statistics.prediction_powered import cross_fitted, prediction_powered


def test_the_estimate_is_that_of_the_formula():
    """By hand: w = cov / var = (1/3) / (1/3) = 1, so W = 0.5 - 1 (0.5 - 0.75) = 0.75 and nothing is left to vote on."""
    found = prediction_powered([1, 0, 1, 0], [1, 0, 1, 0], [1, 0, 1, 0, 1, 1, 1, 1])
    assert (found.win_rate.value, found.weight) == (0.75, 1.0)
    half = stats.t.isf(0.025, 3) * np.sqrt(np.var([1, 0, 1, 0, 1, 1, 1, 1], ddof=1) / 8)
    assert found.win_rate.low == pytest.approx(0.75 - half)


def test_an_evaluator_that_knows_nothing_or_the_opposite_leaves_the_votes_as_they_are():
    votes = np.array([1, 0, 1, 1, 0, 1.0])
    for auto in (np.ones(6), 1 - votes):
        found = prediction_powered(votes, auto, np.append(auto, [0.0] * 10))
        assert (found.win_rate.value, found.weight) == (pytest.approx(2 / 3), 0.0)
        assert found.saved == pytest.approx(0)


def draw(rng, n, num_all, accuracy, win_rate=0.55):
    """Return votes on n prompts, and an automatic winner that agrees with people on this share, of these and of all."""
    people = (rng.random(num_all) < win_rate).astype(float)
    auto = np.where(rng.random(num_all) < accuracy, people, 1 - people)
    return people[:n], auto[:n], auto


@pytest.mark.parametrize(("n", "accuracy", "width"), [(50, 0.65, 0.955), (100, 0.8, 0.814), (300, 0.9, 0.693)])
def test_intervals_hold_the_truth_and_are_narrower_by_what_the_formula_says(n, accuracy, width):
    """Width to votes alone: sqrt(1 - (1 - n / N) rho^2) with rho = 2 q - 1, for N = 1600."""
    rng = np.random.default_rng(n)
    held, widths = [], []
    for _ in range(2000):
        votes, auto, auto_all = draw(rng, n, 1600, accuracy)
        found = prediction_powered(votes, auto, auto_all).win_rate
        alone = 2 * stats.t.isf(0.025, n - 1) * votes.std(ddof=1) / np.sqrt(n)
        held.append(found.low <= 0.55 <= found.high)
        widths.append((found.high - found.low) / alone)
    assert 0.935 <= np.mean(held) <= 0.965
    assert np.mean(widths) == pytest.approx(width, abs=0.015)


def test_six_scorers_are_joined_without_seeing_the_votes_they_help():
    """100 votes: the interval of joined scores holds the truth in 95 % of studies and is narrower than votes alone."""
    rng = np.random.default_rng(6)
    held, narrower = [], []
    for _ in range(600):
        taste = rng.standard_normal(800)
        people = (taste + 0.5 * rng.standard_normal(800) > -0.14).astype(float)
        scores = taste[:, None] + 1.5 * rng.standard_normal((800, 6))
        voted, every = cross_fitted(people[:100], scores[:100], scores)
        found = prediction_powered(people[:100], voted, every).win_rate
        truth = stats.norm.cdf(0.14 / np.sqrt(1.25))
        held.append(found.low <= truth <= found.high)
        narrower.append((found.high - found.low) / (2 * stats.t.isf(0.025, 99) * people[:100].std(ddof=1) / 10))
    assert np.mean(held) == pytest.approx(0.95, abs=0.03), "three standard errors of 600 draws"
    assert np.mean(narrower) < 0.9


@pytest.mark.parametrize(("num", "scores"), [(49, 1), (100, 11)])
def test_too_few_votes_for_so_many_scores_are_refused(num, scores):
    with pytest.raises(ValueError, match=f"{num} votes are too few to join {scores} scores"):
        cross_fitted(np.ones(num), np.ones((num, scores)), np.ones((200, scores)))


def test_votes_without_their_scores_are_refused():
    with pytest.raises(ValueError, match="got 3 votes, 2 scores"):
        prediction_powered([1, 0, 1], [1, 0], [1, 0, 1])
