"""Who meets whom in a tournament among the images of a prompt, and what each image is worth after it."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from alignbench.pairwise.comparer import Verdict
from alignbench.pairwise.orders import JudgedPair
from alignbench.pairwise.tournament import Tournament, margin, standings


def judged(tournament, utility, bias=0.0, failed=()):
    """Return the pairs of a tournament and what a judge says that knows the utilities, and likes the first place."""
    pairs = tournament.pairs(len(utility))

    def verdict(one, other):
        if (one, other) in failed:
            return Verdict(None, None)
        return Verdict.of_log_odds(float(utility[one] - utility[other] + bias))

    both = tournament.orders == "both"
    return pairs, [JudgedPair("", verdict(a, b), verdict(b, a) if both else None) for a, b in pairs]


@pytest.mark.parametrize("num_images", [2, 3, 4, 7, 8])
def test_all_meet_all_once(num_images):
    tournament = Tournament(None, "both")
    pairs = tournament.pairs(num_images)
    assert sorted(tuple(sorted(pair)) for pair in pairs) == list(combinations(range(num_images), 2))
    assert tournament.num_calls(num_images) == num_images * (num_images - 1)
    assert tournament.pairs(num_images) == Tournament(num_images + num_images % 2, "both").pairs(num_images)


@pytest.mark.parametrize("num_images", [6, 7])
def test_with_fewer_opponents_each_meets_so_many_and_comes_first_as_often_as_second(num_images):
    tournament = Tournament(4, "once")
    pairs = tournament.pairs(num_images)
    assert len({frozenset(pair) for pair in pairs}) == len(pairs) == 2 * num_images == tournament.num_calls(num_images)
    firsts, seconds = (Counter(side) for side in zip(*pairs, strict=True))
    assert set(firsts.values()) == set(seconds.values()) == {2}


def test_a_transitive_judge_gives_evenly_spaced_shares_whatever_the_gaps():
    utility = [0.0, 100.0, 0.1, -3.0]
    found = standings(*judged(Tournament(None, "both"), utility), 4, "win_share")
    np.testing.assert_allclose(found, [1 / 3, 1.0, 2 / 3, 0.0])


def test_a_tie_is_half_a_win_and_all_wins_are_half_of_all_comparisons():
    found = standings(*judged(Tournament(None, "both"), [1.0, 1.0, 0.0]), 3, "win_share")
    np.testing.assert_allclose(found, [0.75, 0.75, 0.0])
    assert found.sum() == 1.5


@pytest.mark.parametrize("bias", [0.4, -7.0])
def test_the_liking_for_a_place_cancels_with_both_orders(bias):
    utility = [0.3, -0.2, 1.0, 0.0]
    for standing in ("win_share", "quality"):
        plain, biased = (standings(*judged(Tournament(None, "both"), utility, b), 4, standing) for b in (0.0, bias))
        np.testing.assert_allclose(biased, plain, atol=1e-12)


def test_quality_is_how_much_better_an_image_is_than_the_others_and_a_bias_cancels_with_one_order_too():
    utility = np.array([0.3, -0.2, 1.0, 0.0, 2.0])
    expected = (5 * utility - utility.sum()) / 4  # the mean of utility - the others' over the four others
    for tournament in (Tournament(None, "both"), Tournament(None, "once")):
        np.testing.assert_allclose(standings(*judged(tournament, utility, 3.0), 5, "quality"), expected, atol=1e-12)


def test_words_alone_have_no_quality():
    words = JudgedPair("", Verdict(None, 1.0), Verdict(None, 1.0))
    assert (margin(words, "win_share"), margin(words, "quality")) == (0.5, None)


def test_a_failed_pair_is_left_out():
    utility, failed = [3.0, 2.0, 1.0, 0.0], [(0, 1)]
    found = standings(*judged(Tournament(None, "both"), utility, failed=failed), 4, "win_share")
    np.testing.assert_allclose(found, [1.0, 1.0, 1 / 3, 0.0])  # 0 and 1 won the two comparisons that are left


def test_an_image_without_any_verdict_has_the_mean_of_the_others():
    utility = [3.0, 2.0, 1.0, 0.0]
    failed = [(0, other) for other in range(1, 4)] + [(other, 0) for other in range(1, 4)]
    found = standings(*judged(Tournament(None, "both"), utility, failed=failed), 4, "win_share")
    np.testing.assert_allclose(found, [0.5, 1.0, 0.5, 0.0])
    nobody = [(a, b) for a in range(4) for b in range(4)]
    for standing, value in (("win_share", 0.5), ("quality", 0.0)):
        assert standings(*judged(Tournament(None, "both"), utility, failed=nobody), 4, standing).tolist() == [value] * 4
