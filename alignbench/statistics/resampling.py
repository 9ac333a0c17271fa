"""The bootstrap resamples of images by their prompts, and what totals, means and medians are in each of them.

The unit of all uncertainty is the cluster: all images of one prompt text. Intervals are percentiles of the resamples.
With several training seeds, intervals have the seeds as second level. S seeds resampled show only (S-1)/S of their
variance and no heavy tails, so their deviation is scaled by sqrt(S/(S-1)) and the whole by Student's over the normal
quantile, at Satterthwaite's degrees of freedom. One cluster alone has no interval: its ends are NaN.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from alignbench.statistics.significance import Level, type_of_sums

CONFIDENCE = 0.95
NUM_RESAMPLES = 2000
_CHUNK = 256  # resamples held as floats at a time
_EVERY = 16  # of the draws, one in so many says about where their quantiles lie
_DRAWN = 16_384  # draws counted at a time; their counts stay in the processor's cache

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A figure and the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def stretched(self, factor: float) -> "Estimate":
        """Return the same figure with both ends `factor` times as far from it."""
        return Estimate(
            self.value, self.value + factor * (self.low - self.value), self.value + factor * (self.high - self.value)
        )


class Resampling:
    """The bootstrap resamples of one list of images: clusters drawn with replacement, the same for all who ask.

    Args:
        clusters: what each of the N images belongs to, usually its prompt text.
        num_resamples: how many; they take 4 bytes times the number of clusters each.
        seed: with the number of clusters, decides the draws.
    """

    def __init__(self, clusters: Iterable[Hashable], num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> None:
        number: dict[Hashable, int] = {}
        self.cluster = np.array([number.setdefault(name, len(number)) for name in clusters], dtype=np.intp)
        if not number:
            raise ValueError("no images to compare; expected at least one prompt with a score")
        self.num_clusters = len(number)
        self.num_resamples = num_resamples
        self.seed = seed

    @cached_property
    def counts(self) -> NDArray[np.uint16]:
        """How often each resample holds each cluster, [R, C]."""
        rng = np.random.default_rng([self.seed, self.num_clusters])
        counts = np.empty((self.num_resamples, self.num_clusters), dtype=np.uint16)
        step = max(_DRAWN // self.num_clusters, 1)
        for start in range(0, self.num_resamples, step):
            rows = counts[start : start + step]
            drawn = rng.integers(self.num_clusters, size=rows.shape)
            drawn += np.arange(len(rows))[:, None] * self.num_clusters
            rows[:] = np.bincount(drawn.ravel(), minlength=rows.size).reshape(rows.shape)
        return counts

    @cached_property
    def _largest_count(self) -> int:
        return int(self.counts.max())

    @cached_property
    def _counts_by_cluster(self) -> NDArray[np.uint16]:
        """The same by cluster, [C, R], each row in one piece of memory."""
        return np.ascontiguousarray(self.counts.T)

    def num_units(self, sums: Floats | None = None) -> int:
        """Return how many independent clusters there are, or those of them where `sums`, [C], is not 0."""
        return self.num_clusters if sums is None else int(np.count_nonzero(sums))

    def cluster_sums(self, values: Floats) -> Floats:
        """Add up the images of each cluster: [S, N] to [S, C]."""
        if self.num_clusters == len(self.cluster):  # one image each, in the same order
            return np.asarray(values, dtype=np.float64) + 0.0  # a sum is never -0
        return np.array([np.bincount(self.cluster, row, self.num_clusters) for row in values], dtype=np.float64)

    def sums_by_level(self, values: Floats) -> list[Floats]:
        """Add up what belongs to each prompt, [K, N] to [K, P], and so on for all else that was drawn."""
        return [self.cluster_sums(values)]

    @cached_property
    def _sizes_by_level(self) -> list[Floats]:
        """How many images belong to each prompt, [P], and so on for all else that was drawn."""
        return [sizes for [sizes] in self.sums_by_level(np.ones((1, len(self.cluster))))]

    def levels(self, sums: Sequence[Floats], pseudo_prompts: bool = False) -> list[Level]:
        """Return what the mean over all images of a figure depends on, training apart.

        Args:
            sums: what the figure adds up to for each prompt, [P], and so on as `sums_by_level` has it.
            pseudo_prompts: whether to add a prompt with the value 1 and one with -1, each with the average number of
                images: where all were won, there would be no variance (Agresti & Coull 1998).
        """
        found = []
        for totals, sizes in zip(sums, self._sizes_by_level, strict=True):
            if pseudo_prompts:
                size = sizes.mean()
                totals, sizes = np.concatenate([totals, [size, -size]]), np.concatenate([sizes, [size, size]])
            found.append(Level.of_clusters(totals, sizes))
        return found

    def totals(self, sums: Floats) -> Floats:
        """Return the total of each resample: what each cluster adds up to, [K, C], to [K, R]."""
        kind = type_of_sums(sums, self._largest_count)
        addends, found = sums.T.astype(kind), np.empty((len(sums), self.num_resamples))
        for start in range(0, self.num_resamples, _CHUNK):
            chunk = slice(start, start + _CHUNK)
            found[:, chunk] = (self.counts[chunk].astype(kind) @ addends).T
        return found

    def means(self, values: Floats) -> Floats:
        """Return the mean of each row in each resample: [K, N] to [K, R]."""
        totals = self.totals(self.cluster_sums(np.concatenate([values, np.ones((1, values.shape[1]))])))
        return totals[:-1] / totals[-1]

    def means_of_groups(self, values: Floats, members: NDArray[np.bool_]) -> Floats:
        """Return the average over groups of each group's mean, in each resample: [K, N] and [G, N] to [K, R].

        A resample averages the groups that it holds.
        """
        sizes = self.totals(self.cluster_sums(members.astype(np.float64)))
        sums = np.stack([self.totals(self.cluster_sums(np.where(rows, values, 0))) for rows in members])  # [G, K, R]
        held = (sizes > 0)[:, None]
        return (sums / np.maximum(sizes, 1)[:, None]).sum(axis=0) / held.sum(axis=0)

    def medians(self, values: Floats) -> Floats:
        """Return the median of each row in each resample: [K, N] to [K, R]."""
        order = np.argsort(values, axis=1, kind="stable")
        num_images = values.shape[1]
        # four standard deviations of a resample's median, in ranks; below them only a count is needed
        reach = 8 + int(2 * np.sqrt(np.square(np.bincount(self.cluster)).sum()))
        window = slice(max(num_images // 2 - reach, 0), num_images // 2 + reach)
        sums = [np.bincount(self.cluster[row[: window.start]], minlength=self.num_clusters) for row in order]
        *before, total = self.totals(np.array([*sums, np.bincount(self.cluster)], dtype=np.float64)).astype(np.int64)
        rows = zip(np.take_along_axis(values, order, axis=1), self.cluster[order], before, strict=True)
        return np.stack([self._medians(ascending, cluster, count, total, window) for ascending, cluster, count in rows])

    def _medians(
        self, ascending: Floats, cluster: NDArray[np.intp], before: NDArray, total: NDArray, window: slice
    ) -> Floats:
        """Find the middle of each resample where its images are counted up, `before` of them below the window."""
        middles = np.stack([(total - 1) // 2, total // 2])  # [2, R]: the median lies between these ranks
        # narrow numbers are added and compared faster
        kind = np.uint16 if max(total.max(), len(ascending)) < 2**16 else np.uint32
        wanted = np.maximum(middles - before, 0).astype(kind)
        counted = np.zeros(self.num_resamples, dtype=kind)
        is_below = np.empty(middles.shape, dtype=bool)
        passed = np.zeros(middles.shape, dtype=np.uint8 if len(cluster[window]) < 2**8 else kind)
        for number in cluster[window]:
            counted += self._counts_by_cluster[number]
            passed += np.less_equal(counted, wanted, out=is_below).view(np.uint8)
        lower, upper = np.minimum(window.start + passed.astype(np.intp), len(ascending) - 1)
        medians = (ascending[lower] + ascending[upper]) / 2
        outside = (before > middles[0]) | (before + counted <= middles[1])
        for row in np.flatnonzero(outside):
            image = np.searchsorted(np.cumsum(self.counts[row, cluster]), middles[:, row], side="right")
            medians[row] = ascending[image].mean()
        return medians

    def over_seeds(self, draws: Floats, *levels: Floats) -> Floats:
        """Add to resamples over prompts alone, [R], what drawing training seeds with replacement changes.

        Args:
            levels: for each method that takes part, the figure by seed in each resample, [S, R].
        """
        repeated = [(stream, level) for stream, level in enumerate(levels) if len(level) > 1]
        if not repeated:
            return draws
        deviations = [self._seed_deviation(level, stream) for stream, level in repeated]
        variances = np.array([deviation.var() for deviation in deviations])
        if not variances.any():
            return draws
        freedom = np.array([len(level) - 1 for _, level in repeated])
        effective = (draws.var() + variances.sum()) ** 2 / (variances**2 / freedom).sum()  # Satterthwaite
        upper = (1 + CONFIDENCE) / 2
        widening = stats.t.ppf(upper, effective) / stats.norm.ppf(upper)
        return draws.mean() + widening * (draws - draws.mean() + sum(deviations))

    def _seed_deviation(self, level: Floats, stream: int) -> Floats:
        num_seeds = len(level)
        rng = np.random.default_rng([self.seed, self.num_clusters, num_seeds, stream])
        chosen = rng.integers(num_seeds, size=level.shape)
        resampled = np.take_along_axis(level, chosen, axis=0).mean(axis=0)
        return (resampled - level.mean(axis=0)) * np.sqrt(num_seeds / (num_seeds - 1))

    def interval(self, value: float, draws: Floats) -> Estimate:
        """Return `value` with the percentile interval of the resamples [R]."""
        if self.num_units() == 1:
            return Estimate(value, float("nan"), float("nan"))
        return Estimate(value, *_quantiles(draws, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)))


class Resamplings:
    """The resamples of every list of prompts that is asked for, each drawn once."""

    def __init__(self, num_resamples: int) -> None:
        self.num_resamples = num_resamples
        self._drawn: dict[tuple[str, ...], Resampling] = {}

    def of(self, clusters: Iterable[str]) -> Resampling:
        key = tuple(clusters)
        if key not in self._drawn:
            self._drawn[key] = Resampling(key, self.num_resamples)
        return self._drawn[key]


def _quantiles(draws: Floats, shares: Sequence[float]) -> list[float]:
    """Return what `np.quantile` does of numbers, to the last bit, at a quarter of its cost: a report has 20,000
    intervals.

    A few of the draws say where a quantile lies, so that only those beyond are put in order.
    """
    few, last = np.sort(draws[::_EVERY]), len(draws) - 1
    found = []
    for share in shares:
        place = share * last
        rank, is_low = int(place), share < 0.5
        reach = min(int(1.3 * len(few) * min(share, 1 - share)) + 8, len(few) - 1)
        beyond = draws[draws <= few[reach]] if is_low else draws[~(draws < few[-1 - reach])]
        before = 0 if is_low else len(draws) - len(beyond)  # draws that are smaller than all of these
        if not before <= rank <= min(rank + 1, last) < before + len(beyond):
            beyond, before = draws, 0
        ranks = [rank - before, min(rank + 1, last) - before]
        low, high = np.partition(beyond, sorted({*ranks}))[ranks].tolist()
        part = place - rank
        found.append(low + (high - low) * part if part < 0.5 else high - (high - low) * (1 - part))
    return found
