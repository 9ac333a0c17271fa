"""The rule of each publication on toy tables whose accuracies are counted by hand."""

import numpy as np
import pytest

from alignbench.card.rules import (
    BOTH_BAD,
    BOTH_GOOD,
    FIRST,
    SECOND,
    all_pairs_of_set,
    both_orders,
    four_votes,
    ranks_of_groups,
    with_predicted_ties,
    without_human_ties,
)

# people: first, second, tie; the judge says each of first, tie, second about each of them
WORTH = np.repeat([1.0, -1.0, 0.0], 3)
MARGIN = np.tile([2.0, 0.0, -2.0], 3)


def test_imagereward_leaves_human_ties_out_and_counts_predicted_ties_as_wrong():
    found = without_human_ties(WORTH, MARGIN)
    assert (found.value, found.num) == (pytest.approx(2 / 6), 6)  # right: first-first, second-second


def test_hpsv2_counts_human_ties_as_right_and_takes_the_mean_over_groups():
    record = np.repeat([0, 1, 2], 3)
    # group 0: first right, tie falls to the first and is right, second wrong; group 1: only the last; group 2: all
    found = ranks_of_groups(WORTH, MARGIN, record)
    assert (found.value, found.num) == (pytest.approx((2 / 3 + 1 / 3 + 1) / 3), 3)


def test_hpsv2_gives_the_share_of_pairs_that_are_not_inverted():
    worth, score = np.array([3.0, 2.0, 2.0, 1.0]), np.array([0.1, 0.4, 0.2, 0.3])
    first, second = np.triu_indices(4, 1)
    found = ranks_of_groups(worth[first] - worth[second], score[first] - score[second], np.zeros(6, int))
    # inverted: image 0 below each of the others, image 2 below image 3; images 1 and 2 are a human tie
    assert found.value == pytest.approx(1 - 4 / 6)


def test_pickscore_gives_half_where_one_of_the_two_is_a_tie():
    half = np.ones(9, bool)  # the other half has no pair, so the best threshold of nothing is the first: 0
    found = with_predicted_ties(WORTH, MARGIN, half)
    by_hand = [1, 0.5, 0, 0, 0.5, 1, 0.5, 1, 0.5]
    assert found.value == pytest.approx(np.mean(by_hand))
    assert found.num == 9


def test_pickscore_takes_the_threshold_that_is_best_on_the_other_half():
    worth = np.array([0.0, 0.0, 1.0, 1.0] * 2)
    margin = np.array([0.3, -0.3, 3.0, 3.0] * 2)  # differences of probability 0.15 and 0.91
    half = np.arange(8) < 4
    assert with_predicted_ties(worth, margin, half).value == 1.0
    assert "t = 0.2" in with_predicted_ties(worth, margin, half).told


def test_genai_bench_of_li_compares_images_of_different_prompts_and_fits_its_threshold():
    # pairs of 5, 5, 1: a tie, and two that are apart; scores 0.90, 0.85, 0.10 tie the first two up to 0.05
    found = all_pairs_of_set(np.array([5.0, 5.0, 1.0]), np.array([0.90, 0.85, 0.10]))
    assert (found.value, found.num) == (1.0, 3)
    # without a human tie the best threshold is none, or one that ties nothing
    assert all_pairs_of_set(np.array([3.0, 2.0, 1.0]), np.array([0.9, 0.1, 0.5])).value == pytest.approx(2 / 3)


def test_genai_bench_of_li_equals_trying_every_threshold():
    rng = np.random.default_rng(0)
    worth, score = rng.integers(1, 6, 30).astype(float), np.round(rng.normal(size=30), 1)
    first, second = np.triu_indices(30, 1)
    human, apart = np.sign(worth[first] - worth[second]), score[first] - score[second]
    by_threshold = [np.mean(np.where(np.abs(apart) <= e, 0, np.sign(apart)) == human) for e in [0.0, *np.abs(apart)]]
    assert all_pairs_of_set(worth, score).value == pytest.approx(max(by_threshold))


def test_genai_bench_of_jiang_wants_exact_matches_of_four_votes():
    votes = [FIRST, FIRST, SECOND, BOTH_GOOD, BOTH_BAD, BOTH_BAD]
    found = four_votes(votes, np.array([1.0, 0.0, -1.0, 0.0, 0.0, 2.0]))
    assert (found.value, found.num) == (pytest.approx(4 / 6), 6)


def test_always_the_first_image_is_right_in_half_of_the_answers_of_both_orders():
    worth = np.array([1.0, 1.0, -1.0, 1.0, 0.0])
    found = both_orders(worth, [1.0] * 5, [1.0] * 5)
    assert (found.value, found.num) == (0.5, 8)  # the tie of people has no right answer
    assert both_orders(worth, [1.0] * 5, [None] * 5).value == 3 / 4


def test_missing_answers_leave_the_denominator():
    found = both_orders(np.array([1.0, -1.0]), [1.0, None], [0.0, 0.0])
    assert (found.value, found.num) == (pytest.approx(2 / 3), 3)
