"""CMMD: how far the images of a method have drifted from those of base for the same prompts, by features of CLIP."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from alignbench.statistics.resampling import Estimate, Resampling
from alignbench.statistics.sets.set_measure import Floats, SetMeasure, squared_distances, symmetric_interval
from alignbench.statistics.significance import Level, levels_test, swaps

SIGMA = 10.0  # width of the kernel
SCALE = 1000.0  # of the published values
CHUNK = 1024  # images whose kernel with all others is in memory at a time


def kernel(a: Floats, b: Floats) -> Floats:
    """Return exp(-|a_i - b_j|^2 / (2 SIGMA^2)) of unit vectors [N, D] and [M, D], [N, M], float64."""
    return np.exp(squared_distances(a, b) / (-2 * SIGMA**2))


class Cmmd(SetMeasure):
    """SCALE times the squared maximum mean discrepancy of a method's unit features from base's; 0 for base itself.

    The estimate is unbiased: it leaves out all pairs of images of one prompt, so that it is about 0, and may be below
    0, where a method changes nothing. The published estimator has those of an image with itself, which adds
    SCALE ((1 - kbar_x) / n + (1 - kbar_y) / m) for the mean kernels kbar: 0.03 for 300 images, nothing for 30,000.

    The kernel is so wide that unit vectors see little but the distance of two means. So this measures drift; whether
    images have become less diverse it does not show.

    Intervals are those of the jackknife that leaves out one prompt at a time. A bootstrap would draw prompts twice, and
    their kernel with themselves is 1.

    Source: Jayasumana et al. 2024 (Rethinking FID), arXiv 2401.09603; cmmd/distance.py of google-research.
    """

    name = "cmmd"
    needs_base = True

    def __init__(self, methods: Sequence[ArrayLike], images: Sequence[tuple[str, int]], resampling: Resampling) -> None:
        self.resampling = resampling
        order, sizes = np.argsort(resampling.cluster, kind="stable"), np.bincount(resampling.cluster)
        self._starts = np.cumsum(sizes) - sizes
        self._pairs = np.outer(sizes, sizes) - np.diag(sizes**2)  # of images in two clusters
        self._vectors = [np.asarray(method, dtype=np.float64)[:, order] for method in methods]
        self._known: dict[int, Floats] = {}

    @property
    def is_defined(self) -> bool:
        return self.resampling.num_clusters > 2  # two are left when the jackknife leaves one out

    def value(self, method: int) -> Estimate:
        """Return the distance from base's images."""
        if method == 0:
            return Estimate(0.0, 0.0, 0.0)
        levels = self._levels(method)
        return symmetric_interval(float(self._by_seed(method).mean()), levels)

    def over_base(self, method: int) -> tuple[Estimate, float]:
        """Return the same, as base has none, and the p-value of it: over prompts and training seeds.

        Over prompts the test is exact and one-sided: of every prompt, the two methods' images change sides. What two
        clusters add to the distance then keeps its size, and changes its sign where one of them was exchanged.
        """
        found, excess = self.value(method), self._excess(method).mean(axis=0)
        totals = [np.einsum("fc,fc->f", signs @ excess, signs) for signs in self._swaps]
        total = np.concatenate(totals)
        rounding = 1e-12 * np.abs(excess).sum()
        p_value = float((total >= total[0] - rounding).mean())
        if len(self._excess(method)) > 1:
            p_value = max(p_value, levels_test(found.value, self._levels(method)))
        return found, p_value

    # ---- parts

    @cached_property
    def _swaps(self) -> list[NDArray[np.floating]]:
        return list(swaps(self.resampling.num_clusters, seed=self.resampling.seed))

    def _excess(self, method: int) -> Floats:
        """Return what each two clusters add to the distance of each seed's images, summed over images, [S, C, C]."""
        if method not in self._known:
            base = self._vectors[0]
            within_base = np.mean([self._sums(one, one) for one in base], axis=0)
            found = []
            for seed in self._vectors[method]:
                across = np.mean([self._sums(seed, one) for one in base], axis=0)
                within = self._sums(seed, seed) + within_base
                excess = (within + within.T) / 2 - (across + across.T)
                np.fill_diagonal(excess, 0)
                found.append(excess)
            self._known[method] = np.stack(found)
        return self._known[method]

    def _sums(self, a: Floats, b: Floats) -> Floats:
        """Return the kernel summed over the images of each two clusters, [C, C]."""
        chunks = (kernel(a[start : start + CHUNK], b) for start in range(0, len(a), CHUNK))
        by_image = np.concatenate([np.add.reduceat(chunk, self._starts, axis=1) for chunk in chunks])
        return np.add.reduceat(by_image, self._starts, axis=0)

    def _by_seed(self, method: int) -> Floats:
        """Return the distance by training seed, [S]."""
        return SCALE * self._excess(method).sum(axis=(1, 2)) / self._pairs.sum()

    def _levels(self, method: int) -> list[Level]:
        """Return what the distance depends on: prompts, and the method's training seeds."""
        excess, num = self._excess(method).mean(axis=0), self.resampling.num_clusters
        left = self._pairs.sum() - 2 * self._pairs.sum(axis=1)
        without = SCALE * (excess.sum() - 2 * excess.sum(axis=1)) / left  # each cluster in turn
        prompts = Level(float((num - 1) * without.var()), num - 1)
        by_seed = self._by_seed(method)
        return [prompts, Level.of_seeds(by_seed)] if len(by_seed) > 1 else [prompts]
