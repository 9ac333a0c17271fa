"""Intervals that hold at any time are those of their formulas, and people who always look seldom err."""

import math

import numpy as np
import pytest
from scipy import special, stats

from alignbench.statistics.always_valid import BETS, with_ties, without_ties


def beta_ratio(wins, losses, rate, prior):
    """The money of a mixture of bets by Beta(prior, prior), integrated plainly."""
    grid = (np.arange(20_000) + 0.5) / 20_000
    likelihood = grid**wins * (1 - grid) ** losses
    return (stats.beta.pdf(grid, prior, prior) * likelihood).mean() / (rate**wins * (1 - rate) ** losses)


def money(values, rate):
    return np.mean([np.prod([1 + bet * (value - rate) for value in values]) for bet in BETS])


def test_the_evidence_without_ties_is_a_mixture_of_likelihood_ratios():
    assert without_ties(9, 3, prior=10).evidence == pytest.approx(beta_ratio(9, 3, 0.5, 10), rel=1e-6)
    assert without_ties(9, 3, prior=2).p_value == pytest.approx(1 / beta_ratio(9, 3, 0.5, 2), rel=1e-6)


def test_the_ends_without_ties_are_where_the_money_is_20():
    found = without_ties(60, 40).win_rate
    assert found.value == 0.6
    for end in (found.low, found.high):
        assert beta_ratio(60, 40, end, 10) == pytest.approx(20, rel=1e-3)


def test_the_evidence_with_ties_is_the_average_of_41_bets():
    values = [1, 0.5, 0.75, 0, 1, 1, 0.25]
    assert len(BETS) == 41
    assert with_ties(values).evidence == pytest.approx(money(values, 0.5), rel=1e-9)


def test_the_ends_with_ties_are_where_the_money_is_20():
    values = [1, 1, 0.5, 1, 0] * 16
    found = with_ties(values).win_rate
    assert found.value == pytest.approx(0.7)
    for end, outwards in ((found.low, -1), (found.high, 1)):
        assert money(values, end + outwards * 0.001) > 20
        assert money(values, end - outwards * 0.002) < 20


def test_swapping_the_methods_turns_everything_round():
    for found, turned in (
        (without_ties(30, 11), without_ties(11, 30)),
        (with_ties([1] * 30 + [0.5] * 4), with_ties([0] * 30 + [0.5] * 4)),
    ):
        assert found.evidence == pytest.approx(turned.evidence)
        assert found.win_rate.low == pytest.approx(1 - turned.win_rate.high)


@pytest.mark.parametrize("function", [lambda: without_ties(0, 0), lambda: with_ties([])])
def test_without_prompts_nothing_is_known(function):
    found = function()
    assert math.isnan(found.win_rate.value)
    assert (found.win_rate.low, found.win_rate.high, found.p_value) == (0, 1, 1)


def test_thousands_of_clear_prompts_neither_overflow_nor_leave_the_range():
    for found in (without_ties(5000, 0), with_ties([1.0] * 5000)):
        assert 0.95 < found.win_rate.low <= 1 == found.win_rate.high
        assert found.p_value < 1e-100


# ---- simulated, as in the design


def stopped(log_money):
    """Share of cases in which money ever reaches 20, and the mean number of prompts until then."""
    reached = log_money >= math.log(20)
    any_time = reached.any(axis=1)
    return any_time.mean(), np.where(any_time, reached.argmax(axis=1) + 1, log_money.shape[1]).mean()


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("rate", "prior", "share", "prompts"),
    [
        (0.5, 10, 0.035, None),
        (0.5, 50, 0.024, None),
        (0.535, 10, 0.49, 1204),
        (0.535, 50, 0.56, 1195),
        (0.6, 10, 1, 218),
    ],
)
def test_a_mixture_looked_at_after_every_prompt(rate, prior, share, prompts):
    won = (np.random.default_rng(3).random((3000, 1600)) < rate).cumsum(axis=1)
    lost = np.arange(1, 1601) - won
    log_money = special.betaln(prior + won, prior + lost) - special.betaln(prior, prior) + (won + lost) * math.log(2)
    found, mean = stopped(log_money)
    assert found == pytest.approx(share, abs=0.025 if 0 < share < 1 and rate > 0.5 else 0.01)
    assert prompts is None or mean == pytest.approx(prompts, abs=25)


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("rate", "ties", "images", "share"),
    [(0.5, 0.3, 1, 0.041), (0.535, 0, 1, 0.55), (0.535, 0, 4, 0.998)],
)
def test_bets_looked_at_after_every_prompt(rate, ties, images, share):
    rng = np.random.default_rng(4)
    values = rng.binomial(images, rate, (1000, 1600)) / images
    values[rng.random(values.shape) < ties] = 0.5
    log_money = np.full(values.shape, -np.inf)
    for bet in BETS:
        log_money = np.logaddexp(log_money, np.log1p(bet * (values - 0.5)).cumsum(axis=1))
    found, _ = stopped(log_money - math.log(len(BETS)))
    if rate == 0.5:
        assert found <= share
    else:
        assert found == pytest.approx(share, abs=0.035)
