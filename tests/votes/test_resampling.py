"""Intervals of votes hold for other prompts and other raters."""

import numpy as np
import pytest

from alignbench.statistics.intervals import compare, mean
from alignbench.statistics.resampling import Resampling
from alignbench.votes.resampling import CrossedResampling


def crossed(num_prompts, num_raters, **settings):
    prompts, raters = np.meshgrid(np.arange(num_prompts), np.arange(num_raters), indexing="ij")
    return CrossedResampling(prompts.ravel().tolist(), raters.ravel().tolist(), **settings)


def test_one_rater_is_the_bootstrap_over_prompts():
    values = np.random.default_rng(0).random(30)
    one = CrossedResampling(list(range(30)), ["R01"] * 30)
    np.testing.assert_array_equal(one.means(values[None]), Resampling(range(30)).means(values[None]))


def test_a_vote_counts_as_often_as_its_prompt_times_its_rater():
    resampling = crossed(5, 3, num_resamples=50)
    table = resampling.counts.reshape(50, 5, 3)
    prompts, raters = table.sum(axis=2), table.sum(axis=1)
    np.testing.assert_array_equal(prompts.sum(axis=1), 5 * 2)  # as many prompts as there are, one rater fewer
    np.testing.assert_array_equal(table * 10, prompts[:, :, None] * raters[:, None, :])
    assert len({tuple(row) for row in raters}) > 3


@pytest.mark.parametrize("num_raters", [2, 3, 6])
def test_the_variance_over_raters_is_that_of_new_raters(num_raters):
    """Raters differ, prompts do not: the resampled variance is that of a mean of raters, s^2 / S."""
    by_rater = np.arange(num_raters, dtype=np.float64)
    resampling = crossed(4, num_raters, num_resamples=20000)
    draws = resampling.means(np.tile(by_rater, 4)[None])[0]
    assert draws.var() == pytest.approx(by_rater.var(ddof=1) / num_raters, rel=0.05)


def test_raters_who_disagree_widen_the_interval():
    votes = np.repeat([[1.0, 1.0, 0.0, 0.0, 1.0, 1.0]], 40, axis=0).ravel()
    crossed_one = mean(votes, crossed(40, 6))
    prompts_alone = mean(votes, Resampling(np.repeat(np.arange(40), 6).tolist()))
    assert prompts_alone.high - prompts_alone.low == 0
    assert crossed_one.high - crossed_one.low > 0.5


def test_missing_cells_and_empty_resamples_are_no_trouble():
    resampling = CrossedResampling(["a", "b"], ["R01", "R02"])  # half of all draws hold no vote
    found = mean([1.0, 0.0], resampling)
    assert (found.value, found.low, found.high) == (0.5, 0, 1)


def test_total_dominance_is_as_sure_as_there_are_prompts():
    votes = np.ones(60)
    found = compare(votes, 1 - votes, crossed(10, 6))
    assert (found.win_rate.value, found.win_rate.high) == (1, 1)
    assert found.win_rate.low == pytest.approx(0.025 ** (1 / 10))
    assert crossed(10, 6).num_units(np.repeat([1.0, 0.0], 30)) == 5


@pytest.mark.slow
def test_intervals_cover_what_they_should():
    """Votes with prompt, rater and own variation: about 95 % of intervals hold the truth, seldom many more."""
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(300):
        signal = 0.3 + 0.7 * rng.normal(size=(30, 1)) + 0.5 * rng.normal(size=(1, 6)) + rng.normal(size=(30, 6))
        found = mean((signal > 0).astype(float).ravel(), crossed(30, 6, num_resamples=400, seed=trial))
        truth = 0.5897  # the normal distribution function at 0.3 / sqrt(0.49 + 0.25 + 1)
        hits += found.low <= truth <= found.high
    assert 0.88 < hits / 300 < 0.99
