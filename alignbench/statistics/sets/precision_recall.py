"""Precision and recall: which of a method's images lie among those of base, and which of base's among the method's."""

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from alignbench.statistics.resampling import Estimate, Resampling
from alignbench.statistics.sets.set_measure import Floats, SetMeasure, squared_distances, symmetric_interval
from alignbench.statistics.significance import Level, levels_test, swaps

NEIGHBOURS = 3  # the ball around an image reaches to this one of its nearest neighbours
NUM_SWAPS = 999  # each draws all balls anew
NEAREST = 64  # neighbours among which the third is sought that a swap leaves: of so many, it leaves about half


class PrecisionRecall(SetMeasure):
    """What precision and recall have in common: one image of each prompt against base's image of other noise.

    Of each prompt text two images are used. The methods' first images are compared with base's second ones, by the
    balls that reach from each image of a set to its third nearest neighbour. So base has a figure, too, of its own
    first images, and the figures of others mean something beside it alone. Two images of one prompt are no pair.
    """

    needs_base = True

    def __init__(self, methods: Sequence[ArrayLike], images: Sequence[tuple[str, int]], resampling: Resampling) -> None:
        self.resampling = resampling
        order = np.argsort(resampling.cluster, kind="stable")
        first = np.searchsorted(resampling.cluster[order], np.arange(resampling.num_clusters))
        first = first[np.bincount(resampling.cluster) > 1]
        self._methods = [np.asarray(method, dtype=np.float64)[:, order[first]] for method in methods]
        self._reference = np.asarray(methods[0], dtype=np.float64)[:, order[first + 1]]
        self._num = len(first)

    @property
    def is_defined(self) -> bool:
        return self._num > NEIGHBOURS + 1

    def value(self, method: int) -> Estimate:
        """Return the share, 0..1, without an interval: what it says, it says beside that of base."""
        shares = [self._share(one, other) for one in self._methods[method] for other in self._reference]
        return Estimate(float(np.mean(shares)), float("nan"), float("nan"))

    def over_base(self, method: int) -> tuple[Estimate, float]:
        """Return how much larger it is than base's.

        The test is exact: of every prompt, the images of the method and of base change sides, and all balls follow. The
        interval is as wide as the differences that such exchanges make. A bootstrap would draw images twice, and shrink
        their balls to nothing.
        """
        own, base = self._methods[method], self._methods[0]
        swapped = np.mean([self._swapped(a, b, other) for a in own for b in base for other in self._reference], axis=0)
        value = float(swapped[0])
        p_value = float((np.abs(swapped) >= abs(value) - 1e-9).mean())
        levels = [Level(float(np.square(swapped).mean()), self._num - 1)]
        if len(own) > 1:
            by_seed = [np.mean([self._share(one, other) for other in self._reference]) for one in own]
            levels.append(Level.of_seeds(by_seed))
            p_value = max(p_value, levels_test(value, levels))
        return symmetric_interval(value, levels), p_value

    # ---- parts

    @abstractmethod
    def _share(self, points: Floats, reference: Floats) -> float:
        """Return the share of one set, [n, D], against one of base's images of other noise, [n, D]."""

    @abstractmethod
    def _swapped(self, a: Floats, b: Floats, reference: Floats) -> Floats:
        """Return the difference of the shares of a and b after each exchange of sides, the first without any, [F]."""


def is_inside(points: Floats, centres: Floats) -> NDArray[np.bool_]:
    """Say which of some points, [n, D], lie in the ball around a centre of another prompt, [n]; centres [n, D]."""
    among, across = squared_distances(centres, centres), squared_distances(points, centres)
    np.fill_diagonal(among, np.inf)
    np.fill_diagonal(across, np.inf)
    radii = np.partition(among, NEIGHBOURS - 1, axis=1)[:, NEIGHBOURS - 1]
    return np.any(across <= radii, axis=1)


class Precision(PrecisionRecall):
    """The share of a method's images that lie in the ball of an image of base: do they look like base's?"""

    name = "precision"

    def _share(self, points: Floats, reference: Floats) -> float:
        return float(is_inside(points, reference).mean())

    def _swapped(self, a: Floats, b: Floats, reference: Floats) -> Floats:
        gains = is_inside(a, reference).astype(np.float64) - is_inside(b, reference)
        return (
            np.concatenate([signs @ gains for signs in swaps(self._num, NUM_SWAPS, self.resampling.seed)]) / self._num
        )


class Recall(PrecisionRecall):
    """The share of base's images that lie in the ball of an image of a method: does it still make all that base makes?

    Source: Kynkaanniemi et al. 2019 (Improved Precision and Recall), arXiv 1904.06991.
    """

    name = "recall"

    def _share(self, points: Floats, reference: Floats) -> float:
        return float(is_inside(reference, points).mean())

    def _swapped(self, a: Floats, b: Floats, reference: Floats) -> Floats:
        balls, found = _MixedBalls(a, b, reference), []
        for signs in swaps(self._num, NUM_SWAPS, self.resampling.seed):
            found += [balls.share(kept > 0) - balls.share(kept < 0) for kept in signs]
        # no random exchange leaves all of the nearest neighbours out; no exchange at all may, where a set has collapsed
        found[0] = self._share(a, reference) - self._share(b, reference)
        return np.array(found)


class _MixedBalls:
    """The balls of a set that has, of each prompt, the image of one method or of another.

    Args:
        a, b: vectors of the two methods, [n, D].
        covered: vectors of the images that may lie in the balls, [n, D].
    """

    def __init__(self, a: Floats, b: Floats, covered: Floats) -> None:
        self._num = len(a)
        points, own = np.concatenate([a, b]), np.arange(len(a))
        among, across = squared_distances(points, points), squared_distances(points, covered)
        for start in (0, self._num):
            across[start + own, own] = np.inf
            for other in (0, self._num):
                among[start + own, other + own] = np.inf
        self._near = np.argsort(among, axis=1, kind="stable")[:, : min(NEAREST, 2 * self._num - 2)]
        self._distance = np.take_along_axis(among, self._near, axis=1)
        # of the images that the balls may cover, those within reach of the farthest neighbour
        self._ball, self._covered = np.nonzero(across <= self._distance[:, -1:])
        self._across = across[self._ball, self._covered]

    def share(self, has_a: NDArray[np.bool_]) -> float:
        """Return the share of `covered` in the balls of the images of a where `has_a`, [n], is true, else of b."""
        is_member = np.concatenate([has_a, ~has_a])
        reached = is_member[self._near].cumsum(axis=1, dtype=np.int8) >= NEIGHBOURS
        radii = np.where(is_member, self._distance[np.arange(2 * self._num), reached.argmax(axis=1)], -1)
        inside = self._covered[self._across <= radii[self._ball]]
        return len(np.unique(inside)) / self._num
