"""Accuracy and agreement of a judge, on margins whose figures are known."""

import numpy as np
import pytest

from alignbench.train_reward.measure import measure


def test_accuracy_counts_winners_and_halves_ties_of_the_judge():
    figures = measure(np.array([1.0, 2.0, -1.0, 0.0]), np.array([1.0, 0.6, 1.0, 0.9]), list("abcd"), None)
    assert figures.accuracy.value == pytest.approx(2.5 / 4)
    assert figures.best is None


def test_agreement_counts_votes_and_equals_the_accuracy_where_there_is_one():
    figures = measure(np.array([1.0, -2.0, 3.0]), np.array([0.8, 0.6, 1.0]), list("abc"), None)
    assert figures.agreement.value == pytest.approx((0.8 + 0.4 + 1.0) / 3)
    hard = measure(np.array([1.0, -2.0, 3.0, 0.0]), np.ones(4), list("abcd"), None)
    assert hard.agreement.value == pytest.approx(hard.accuracy.value)


def test_pairs_that_nobody_won_are_counted_and_left_out_of_the_accuracy():
    figures = measure(np.array([1.0, -3.0, -3.0]), np.array([1.0, 0.5, 0.5]), list("abc"), None)
    assert (figures.num_pairs, figures.num_ties, figures.accuracy.value) == (3, 2, 1.0)


def test_the_interval_is_over_prompts():
    rng = np.random.default_rng(4)
    right = np.where(rng.random(40) < 0.7, 1.0, -1.0).repeat(10)  # all pairs of a prompt go the same way
    few = measure(right, np.ones(400), [str(n // 10) for n in range(400)], None).accuracy
    many = measure(right, np.ones(400), [str(n) for n in range(400)], None).accuracy
    assert few.high - few.low > 2 * (many.high - many.low)


def test_a_judge_that_knows_the_law_is_as_good_as_possible_and_one_that_is_wrong_is_not():
    rng = np.random.default_rng(5)
    law = rng.uniform(0.05, 0.95, 300)
    law = np.where(rng.random(300) < law, law, 1 - law)  # of the one that won
    labels = np.ones(300)
    margins, names = np.log(law / (1 - law)), [str(n) for n in range(300)]
    best = measure(margins, labels, names, law).best
    assert best.gap.value == 0
    assert best.distance == pytest.approx(0, abs=1e-12)
    wrong = measure(-margins, labels, names, law)
    assert wrong.best.gap.value == pytest.approx(wrong.best.agreement.value - wrong.agreement.value)
    assert wrong.best.gap.low > 0
