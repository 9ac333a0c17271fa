import numpy as np
import pytest

from alignbench.statistics.resampling import Resampling


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="no images to compare"):
        Resampling([])


def test_medians_of_resamples_equal_those_of_written_out_samples():
    rng = np.random.default_rng(3)
    clusters = rng.integers(12, size=40)
    scores = rng.normal(size=40).round(1)
    resampling = Resampling(clusters, num_resamples=50)
    for counts, found in zip(resampling.counts, resampling.medians(scores[None])[0], strict=True):
        assert found == np.median(np.repeat(scores, counts[resampling.cluster]))
    for counts, found in zip(resampling.counts, resampling.means(scores[None])[0], strict=True):
        assert found == pytest.approx(np.mean(np.repeat(scores, counts[resampling.cluster])))


def test_medians_are_found_within_the_window_and_outside_of_it():
    scores = np.random.default_rng(6).normal(size=300)
    resampling = Resampling(range(300), num_resamples=60)
    expected = [np.median(np.repeat(scores, counts)) for counts in resampling.counts]
    assert resampling.medians(scores[None])[0].tolist() == expected  # its window has 84 of the 300 images
    order = np.argsort(scores)
    before, total = resampling.counts[:, order[:149]].sum(axis=1, dtype=int), resampling.counts.sum(axis=1, dtype=int)
    narrow = resampling._medians(scores[order], order, before, total, slice(149, 151))
    assert narrow.tolist() == expected


def test_resamples_are_drawn_one_after_the_other_from_one_stream():
    resampling = Resampling(range(70), num_resamples=500, seed=4)
    rng = np.random.default_rng([4, 70])
    expected = [np.bincount(rng.integers(70, size=70), minlength=70) for _ in range(500)]
    np.testing.assert_array_equal(resampling.counts, expected)


def test_totals_of_wins_are_exact_and_those_of_scores_have_all_their_digits():
    resampling = Resampling(range(900), num_resamples=40)
    rng = np.random.default_rng(5)
    wins, scores = rng.integers(3, size=(2, 900)) / 2, rng.normal(size=(2, 900))
    for rows in (wins, scores, 2.0**24 + wins):
        found, counts = resampling.totals(rows), resampling.counts.astype(np.float64)
        np.testing.assert_allclose(found, rows @ counts.T, rtol=1e-12, atol=1e-9)
    assert (resampling.counts.astype(int) @ (2 * wins).astype(int).T == 2 * resampling.totals(wins).T).all()


@pytest.mark.parametrize("num", [1, 2, 40, 41, 10_000])
def test_the_ends_of_an_interval_are_the_quantiles_of_numpy_to_the_last_bit(num):
    rng = np.random.default_rng(num)
    ends = [(1 - 0.95) / 2, (1 + 0.95) / 2]
    misleading = rng.normal(size=num)
    misleading[: 40 * 16 : 16] = np.linspace(8, 9, len(misleading[: 40 * 16 : 16]))  # by one in 16, 6 % are so large
    alike = np.full(num, 0.3)
    skewed = np.sort(rng.exponential(size=num))
    for draws in (rng.normal(size=num), rng.integers(0, 9, size=num) / 8, misleading, -misleading, alike, skewed):
        found = Resampling(range(9), 1).interval(0.0, draws)
        assert [found.low, found.high] == np.quantile(draws, ends).tolist()
