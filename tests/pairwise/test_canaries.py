"""Canary pairs tell another model from the former one, and rounding from neither."""

from dataclasses import replace

import numpy as np
import pytest

from alignbench.pairwise.canaries import canaries, other_answers, pairs_digest
from alignbench.pairwise.comparer import Verdict


def of(*log_odds):
    return [Verdict.of_log_odds(one) for one in log_odds]


def words(*won):
    return [Verdict(None, one) for one in won]


def test_the_pairs_are_drawn_alike_everywhere_and_only_some_are_clear():
    assert pairs_digest() == "aaadf3abf615c84c"  # other pixels or words are other pairs, to which no answers are known
    assert [one.is_clear for one in canaries()] == [True] * 4 + [False] * 4
    assert len({one.prompt for one in canaries()}) == 8
    for one in canaries():
        changed = (np.asarray(one.first) != np.asarray(one.second)).any(axis=-1).mean()
        assert changed > 0.005, one.prompt


@pytest.mark.parametrize(
    ("before", "now", "others"),
    [
        ([0.2] * 8, [1.1] * 8, 0),  # one batch rounds otherwise than another
        ([0.2] * 8, [1.3, *[0.2] * 7], 1),
        ([-0.1] * 8, [0.1] * 8, 0),  # an undecided model that turns is the same still
        ([9.0] * 8, [14.0] * 8, 0),  # both are sure
        ([9.0] * 8, [3.5] * 8, 8),
        ([9.0] * 8, [-9.0] * 8, 8),
    ],
)
def test_log_odds_of_one_model_differ_little(before, now, others):
    assert len(other_answers(of(*before), of(*now))) == others


def test_words_are_compared_where_one_image_fits_and_the_other_does_not():
    before = words(1, 0, 0, 0, 1, 1, 1, 1)
    assert other_answers(before, words(1, 0, 0, 0, 0, 0, None, 0)) == []
    assert other_answers(before, words(1, 0, 1, None, 1, 1, 1, 1)) == list(canaries()[2:4])
    assert other_answers(before, of(3, -3, -3, 3, 1, 1, 1, 1)) == [canaries()[3]]  # a server that gives odds by now


def test_what_a_call_cost_is_no_answer():
    before = of(*[0.5] * 8)
    assert other_answers(before, [replace(one, seconds=9.0, tokens=(1, 2), fingerprint="fp_2") for one in before]) == []
