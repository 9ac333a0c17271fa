"""How different images are from each other: root mean squared distances of pairs, with their uncertainty.

Two kinds of pairs: images of different prompts under one image number, and images of one prompt from different noise.
Both go by mean colours at low resolution (`image_statistics.thumbnails`), which need no network, or by features.

The mean squared distance of all pairs follows from sums over images, so a resample of the prompts costs one product of
matrices. Pairs within one cluster (images of one prompt text, or a cluster that a resample drew twice) are no pairs of
different prompts and are taken out.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from alignbench.statistics.resampling import Estimate, Resampling
from alignbench.statistics.sets.set_measure import Floats, SetMeasure
from alignbench.statistics.significance import Level, levels_test, sign_flip_test

Pairs = Literal["prompts", "noise"]
CHUNK = 256  # resamples held as floats at a time


@dataclass(frozen=True)
class Sums:
    """Sums over the images of each of U units: clusters in B blocks, one an image number, or prompts in one block.

    Attributes:
        count: of images, [B, U].
        first: of their vectors, [B, U, K].
        second: of their squared lengths, [B, U].
    """

    count: Floats
    first: Floats
    second: Floats

    @property
    def inside(self) -> Floats:
        """Sum of the squared distances of all ordered pairs within a unit, [U]."""
        return (2 * (self.count * self.second - np.square(self.first).sum(axis=2))).sum(axis=0)


class Diversity(SetMeasure):
    """The diversity of several methods on the same images: the difference of two images in one of their numbers.

    Args:
        methods, images, resampling: see `SetMeasure`.
        pairs: `prompts`, or `noise` for images of one prompt.
    """

    kind = "diversity"

    def __init__(
        self, methods: Sequence[ArrayLike], images: Sequence[tuple[str, int]], resampling: Resampling, pairs: Pairs
    ) -> None:
        self.resampling, self.pairs, self.name = resampling, pairs, f"{self.kind}_{pairs}"
        if pairs == "prompts":
            self._block, self._unit = _numbered([number for _, number in images]), resampling.cluster
            self._cluster = np.arange(resampling.num_clusters)
        else:
            self._block, self._unit = np.zeros(len(images), np.intp), _numbered([prompt_id for prompt_id, _ in images])
            _, first = np.unique(self._unit, return_index=True)
            self._cluster = resampling.cluster[first]
        arrays = [np.asarray(method, dtype=np.float64) for method in methods]
        centre = np.mean([array.mean(axis=(0, 1)) for array in arrays], axis=0)  # distances stay, rounding shrinks
        self._dimensions = len(centre)
        self._sums = [[self._sum(seed - centre) for seed in array] for array in arrays]

    @property
    def is_defined(self) -> bool:
        """Whether there is any pair of images to measure."""
        return bool(np.isfinite(self._distance(self._sums[0][0], np.ones((1, self.resampling.num_clusters)))).all())

    def value(self, method: int) -> Estimate:
        """Return the root mean squared distance in the unit of the vectors, the mean over seeds."""
        draws = self._draws[method]
        return self._interval(float(self._values[method].mean()), draws.mean(axis=0), draws)

    def over_base(self, method: int) -> tuple[Estimate, float]:
        return self.compare(method, 0)

    def compare(self, method_a: int, method_b: int) -> tuple[Estimate, float]:
        """Return how much larger it is for a than for b, and the p-value of that, over prompts and training seeds.

        Over prompts the test is exact: of every prompt, the two methods' images change sides. Let h(x) be the sum of
        squared distances of image x to the images of both methods in other clusters. It does not depend on the sides,
        and the sums of h over the images of a and of b differ by just as much as their own pairs do, since pairs of a
        with b are in both. So the flipped signs of each cluster's difference in h give all that the exchange can give.
        """
        a, b = self._draws[method_a], self._draws[method_b]
        value = float(self._values[method_a].mean() - self._values[method_b].mean())
        gains = [self._gains(one, other) for one in self._sums[method_a] for other in self._sums[method_b]]
        p_value = sign_flip_test(np.mean(gains, axis=0), seed=self.resampling.seed)
        if repeated := [method for method in (method_a, method_b) if len(self._values[method]) > 1]:
            drawn = Level(float(np.nanvar(a.mean(axis=0) - b.mean(axis=0))), self.resampling.num_clusters - 1)
            seeds = [Level.of_seeds(self._values[method]) for method in repeated]
            p_value = max(p_value, levels_test(value, [drawn, *seeds]))
        return self._interval(value, a.mean(axis=0) - b.mean(axis=0), a, -b), p_value

    # ---- parts

    def _interval(self, value: float, draws: Floats, *levels: Floats) -> Estimate:
        """Return `value` with the interval of the resamples that hold a pair, which few prompts may leave without."""
        held = ~np.isnan(draws)
        draws = self.resampling.over_seeds(draws[held], *(level[:, held] for level in levels))
        return self.resampling.interval(value, draws)

    def _sum(self, vectors: Floats) -> Sums:
        shape = (int(self._block.max()) + 1, len(self._cluster))
        count, second = np.zeros(shape), np.zeros(shape)
        first = np.zeros((*shape, self._dimensions))
        place = (self._block, self._unit)
        np.add.at(count, place, 1)
        np.add.at(first, place, vectors)
        np.add.at(second, place, np.square(vectors).sum(axis=1))
        return Sums(count, first, second)

    def _by_cluster(self, values: Floats) -> Floats:
        """Add up what the units of each cluster have, [U] to [C]."""
        return np.bincount(self._cluster, values, self.resampling.num_clusters).astype(np.float64)

    def _distance(self, sums: Sums, weights: Floats) -> Floats:
        """Return the distance where clusters count as often as `weights`, [R, C], say; NaN where there is no pair."""
        if self.pairs == "noise":
            total = weights @ self._by_cluster(sums.inside)
            num_pairs = weights @ self._by_cluster((np.square(sums.count) - sums.count).sum(axis=0))
        else:
            squares = np.square(weights)
            total, num_pairs = -squares @ sums.inside, -squares @ np.square(sums.count).sum(axis=0)
            for count, first, second in zip(sums.count, sums.first, sums.second, strict=True):
                number = weights @ count
                total += 2 * (number * (weights @ second) - np.square(weights @ first).sum(axis=1))
                num_pairs += np.square(number)
        mean = np.divide(total, num_pairs, out=np.full_like(total, np.nan), where=num_pairs > 0.5)
        return np.sqrt(np.maximum(mean, 0) / self._dimensions)

    def _gains(self, a: Sums, b: Sums) -> Floats:
        """Return what each cluster adds to the difference between a and b, [C]."""
        if self.pairs == "noise":
            return self._by_cluster(a.inside - b.inside)
        both, number = a.first + b.first, a.count + b.count
        others = both.sum(axis=1, keepdims=True) - both
        num_others = number.sum(axis=1, keepdims=True) - number
        gains = (a.second - b.second) * num_others - 2 * ((a.first - b.first) * others).sum(axis=2)
        return gains.sum(axis=0)

    @cached_property
    def _values(self) -> list[Floats]:
        """By method, [S]."""
        ones = np.ones((1, self.resampling.num_clusters))
        return [np.concatenate([self._distance(seed, ones) for seed in seeds]) for seeds in self._sums]

    @cached_property
    def _draws(self) -> list[Floats]:
        """By method, [S, R]."""
        counts = self.resampling.counts
        chunks = (counts[start : start + CHUNK].astype(np.float64) for start in range(0, len(counts), CHUNK))
        parts = [[self._distance(seed, chunk) for seeds in self._sums for seed in seeds] for chunk in chunks]
        return np.split(np.concatenate(parts, axis=1), np.cumsum([len(seeds) for seeds in self._sums])[:-1])


class Distance(Diversity):
    """The same of whole vectors: the root mean squared distance of two, for unit vectors 0 to 2."""

    kind = "distance"

    def __init__(
        self, methods: Sequence[ArrayLike], images: Sequence[tuple[str, int]], resampling: Resampling, pairs: Pairs
    ) -> None:
        super().__init__(methods, images, resampling, pairs)
        self._dimensions = 1


def _numbered(names: Sequence[Hashable]) -> NDArray[np.intp]:
    """Number names in the order in which they come."""
    place = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return np.array([place[name] for name in names], dtype=np.intp)
