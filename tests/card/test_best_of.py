"""Gains of the best of n, against drawing and against all subsets."""

from itertools import combinations

import numpy as np
import pytest

from alignbench.card.best_of import best_of, divergence, expected_best
from alignbench.card.human.records import spread_within


def test_the_best_of_one_gains_nothing():
    scores = {"a": [np.array([0.1, 0.9, 0.4, 0.4])], "b": [np.array([3.0, 1.0, 2.0, 5.0])]}
    found = best_of("a", scores, None, [1, 2, 4], "toy")
    assert found.n == [1, 2, 4]
    assert found.divergence[0] == divergence(1) == 0
    assert found.gain["a"][0] == pytest.approx(0)
    assert found.gain["b"][0] == pytest.approx(0)


def test_the_best_of_all_is_the_best_and_what_another_says_of_it():
    scores = {"a": [np.array([0.1, 0.9, 0.4, 0.2])], "b": [np.array([3.0, 1.0, 2.0, 5.0])]}
    found = best_of("a", scores, [np.array([0.0, 1.0, 0.0, 0.0])], [4], "toy")
    spread = scores["b"][0].std(ddof=1)
    assert found.gain["b"] == [pytest.approx((1 - 2.75) / spread)]
    assert found.truth == [pytest.approx(0.75 / np.array([0, 1, 0, 0]).std(ddof=1))]


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_the_expected_best_equals_the_mean_over_all_subsets(n):
    chooser, judge = np.array([1.0, 2, 2, 3, 0]), np.array([5.0, 1, 4, 2, 7])
    means = []
    for some in map(list, combinations(range(5), n)):
        best = [i for i in some if chooser[i] == chooser[some].max()]
        means.append(judge[best].mean())
    assert expected_best(chooser, judge, n) == pytest.approx(np.mean(means))


def test_prompts_with_too_few_images_are_left_out_and_n_ends_where_most_prompts_do():
    rng = np.random.default_rng(0)
    scores = {"a": [rng.normal(size=size) for size in (4, 4, 4, 2)]}
    found = best_of("a", scores, None, [1, 2, 4, 8], "toy")
    assert (found.n, found.num_prompts) == ([1, 2, 4], 3)
    assert best_of("a", {"a": [np.ones(1)]}, None, [1, 2], "toy") is None


def test_gains_do_not_depend_on_how_much_scores_differ_between_prompts():
    rng = np.random.default_rng(1)
    scores = [rng.normal(size=4) for _ in range(5)]
    shifted = [one + 100 * number for number, one in enumerate(scores)]
    assert spread_within(shifted) == pytest.approx(spread_within(scores))
    assert spread_within([np.array([1.0, 3.0]), np.array([7.0])]) == pytest.approx(np.sqrt(2))
    assert spread_within([np.ones(1)]) == 0
    found = best_of("a", {"a": shifted}, None, [2], "toy").gain["a"]
    assert found == pytest.approx(best_of("a", {"a": scores}, None, [2], "toy").gain["a"])
