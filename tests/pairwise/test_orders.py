"""Two orders of a pair: an additive bias cancels, words are averaged, failures are counted and never guessed."""

import math

import numpy as np
import pytest

from alignbench.pairwise.comparer import Verdict
from alignbench.pairwise.orders import JudgedPair, position_bias


def pair(quality, bias, prompt="a cat"):
    """What a judge says that adds a bias to the log-odds of whatever comes first."""
    return JudgedPair(prompt, Verdict.of_log_odds(quality + bias), Verdict.of_log_odds(-quality + bias))


@pytest.mark.parametrize("bias", [-3.0, 0.0, 0.5, 40.0])
@pytest.mark.parametrize("quality", [-2.0, -0.125, 0.0, 0.25])
def test_an_additive_bias_cancels_exactly(quality, bias):
    judged = pair(quality, bias)
    assert (judged.quality, judged.position) == (quality, bias)
    assert judged.won == (1.0 if quality > 0 else 0.0 if quality < 0 else 0.5)


def word(won):
    return Verdict(None, won)


@pytest.mark.parametrize(
    ("a_first", "b_first", "won"),
    [
        (word(1.0), word(0.0), 1.0),  # a both times
        (word(1.0), word(1.0), 0.5),  # the first both times
        (word(0.0), word(1.0), 0.0),
        (word(1.0), None, 1.0),  # one order was asked
        (None, word(1.0), 0.0),
        (Verdict.of_log_odds(0.2), word(0.0), 1.0),  # log-odds in one order alone count as a word
        (word(None), word(1.0), None),
        (word(1.0), word(None), None),
    ],
)
def test_words_are_averaged_and_half_a_failure_is_a_failure(a_first, b_first, won):
    assert JudgedPair("a cat", a_first, b_first).won == won


def test_the_figures_of_a_biased_judge_are_those_counted_by_hand():
    """Qualities 2, 0.5, -0.5 and -3 under a bias of 1: the first is preferred in 6 of 8 calls."""
    same = JudgedPair("a cat", word(0.5), word(0.5), is_one_image=True)
    failed = JudgedPair("a cat", word(None), word(1.0))
    found = position_bias([*(pair(quality, 1.0, str(quality)) for quality in (2, 0.5, -0.5, -3)), same, failed])
    assert (found.calls, found.pairs, found.failures, found.ties) == (10, 5, 1, 0)
    assert found.first_rate == 6 / 8
    assert (found.consistent, found.always_first, found.always_second) == (0.5, 0.5, 0.0)
    assert found.log_odds.value == 1.0
    assert found.failed_share == 0.2
    assert found.is_biased
    assert found.fails_often
    assert "the first image preferred in 75.0 % of calls (unbiased: 50 %)" in str(found)
    assert "failures 1 (20.0 %)" in str(found)


def test_a_warning_names_the_place_that_is_preferred_and_what_cancels_it():
    first, second = Verdict.of_log_odds(1.0), Verdict.of_log_odds(-1.0)
    both = position_bias([JudgedPair("a cat", second, second)] * 3)
    assert both.warning == "it prefers the second image too often, whatever it shows; both orders cancel this"
    one = position_bias([JudgedPair("a cat", first, None)] * 3)
    assert one.warning.startswith("it prefers the first image too often")
    assert one.warning.endswith("asking in one random order makes this noise")
    assert position_bias([JudgedPair("a cat", first, second)]).warning == ""


def test_nothing_asked_says_nothing():
    found = position_bias([])
    assert math.isnan(found.first_rate)
    assert not found.is_biased
    assert not found.fails_often
    assert str(found) == "0 comparisons in 0 calls, ties 0, failures 0 (0.0 %)"


def test_both_orders_and_a_random_one_have_the_win_rate_of_an_unbiased_judge():
    """One fixed order does not: with a bias of 2, 0.54 becomes 0.8 and more."""
    rng = np.random.default_rng(0)
    qualities = rng.normal(0.2, 2.0, 4000).tolist()
    both = np.mean([pair(quality, 2.0).won for quality in qualities])
    fixed = np.mean([JudgedPair("", Verdict.of_log_odds(quality + 2.0), None).won for quality in qualities])
    orders = [(Verdict.of_log_odds(q + 2.0), None) if r else (None, Verdict.of_log_odds(2.0 - q))
              for q, r in zip(qualities, rng.integers(2, size=4000), strict=True)]  # fmt: skip
    drawn = np.mean([JudgedPair("", *order).won for order in orders])
    assert both == np.mean([quality > 0 for quality in qualities])
    assert fixed > 0.8
    assert 0.5 < drawn < 0.56
