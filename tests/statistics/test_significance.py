import itertools

import numpy as np
import pytest
from scipy import stats

from alignbench.statistics.significance import (
    NUM_FLIPS,
    flipped_sums,
    holm,
    sign_flip_test,
    sign_test,
    sign_tests,
    swaps,
)


def test_the_sign_test_is_the_binomial_test_without_ties():
    gains = [1, 2, 0, 0.5, 3, -1, 0, 2, 4]
    assert sign_test(gains) == stats.binomtest(6, 7).pvalue
    assert sign_test([0, 0]) == 1.0


def test_few_clusters_get_the_exact_flip_test():
    gains = np.array([0.3, -0.1, 0.8, 0.2, 0.5, -0.2, 0.4])
    sums = [abs(np.dot(signs, gains)) for signs in itertools.product([-1, 1], repeat=len(gains))]
    assert sign_flip_test(gains) == np.mean(np.array(sums) >= gains.sum() - 1e-9)
    scipy = stats.permutation_test((gains,), np.sum, permutation_type="samples", n_resamples=1000)
    assert sign_flip_test(gains) == pytest.approx(scipy.pvalue)


def test_many_clusters_get_a_random_flip_test_that_agrees_with_scipy():
    gains = np.random.default_rng(7).normal(0.15, 1, size=100)
    gains += 0.15 - gains.mean()
    scipy = stats.permutation_test(
        (gains,), np.sum, permutation_type="samples", n_resamples=19_999, rng=np.random.default_rng(8)
    )
    assert sign_flip_test(gains, num_flips=19_999) == pytest.approx(scipy.pvalue, abs=0.012)
    ours = sign_flip_test(gains)
    assert ours * (NUM_FLIPS + 1) == pytest.approx(round(ours * (NUM_FLIPS + 1))), "(k + 1) / (n + 1)"
    assert ours == sign_flip_test(gains), "the same at every call"


def test_a_gain_too_clear_for_random_flips_gets_an_upper_bound_of_the_exact_value():
    """All of 20 gains equal: exactly 2 of 2^20 sign patterns reach the sum; Hoeffding says 2 exp(-10) = 9.1e-5."""
    p = sign_flip_test(np.ones(20))
    assert p == pytest.approx(2 * np.exp(-10))
    assert 2 / 2**20 < p < 1 / (NUM_FLIPS + 1)


def test_holm_multiplies_the_smallest_by_all_and_never_reverses_an_order():
    """0.01 * 3, then 0.02 * 2, then max(0.04, 0.03 * 1)."""
    assert holm([0.03, 0.01, np.nan, 0.02]) == pytest.approx([0.04, 0.03, np.nan, 0.04], nan_ok=True)
    assert holm([0.9, 0.8]) == pytest.approx([1, 1])
    assert np.isnan(holm([np.nan])).all()


def test_tests_among_several_rows_share_the_sums_under_random_signs():
    """The sums of a difference are the difference of sums, so the p-value is the same."""
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(3, 40)) + 100.0
    sums = flipped_sums(scores - scores.mean(axis=0))
    assert sums.shape == (3, NUM_FLIPS)
    signs = np.round(flipped_sums(np.eye(40)))  # [C, F]
    assert set(np.unique(signs)) == {-1.0, 1.0}
    np.testing.assert_allclose(sums, (scores - scores.mean(axis=0)) @ signs, atol=1e-9)
    for a, b in ((0, 1), (2, 0)):
        gains = scores[a] - scores[b]
        assert sign_flip_test(gains, flipped=lambda a=a, b=b: sums[a] - sums[b]) == sign_flip_test(gains)
    gains[5] = 0.0  # then signs are drawn for 39 gains
    assert sign_flip_test(gains, flipped=lambda: sums[0]) == sign_flip_test(gains)


def test_few_sides_are_exchanged_in_every_way_and_many_at_random_after_none():
    few = np.concatenate(list(swaps(5, 40)))
    assert sorted(map(tuple, few)) == sorted(itertools.product([-1, 1], repeat=5))
    many = np.concatenate(list(swaps(20, 600)))
    assert many.shape == (601, 20)
    assert (few[0] == 1).all()
    assert (many[0] == 1).all()
    assert abs(many[1:].mean()) < 0.05
    assert (many == np.concatenate(list(swaps(20, 600)))).all()


def test_sign_tests_of_many_rows_are_those_of_each_alone():
    gains = np.sign(np.random.default_rng(1).normal(0.2, 1, size=(40, 31)).round(1))
    assert (gains == 0).any()
    alone = [stats.binomtest(int((row > 0).sum()), int((row != 0).sum())).pvalue for row in gains]
    assert sign_tests(gains).tolist() == alone
