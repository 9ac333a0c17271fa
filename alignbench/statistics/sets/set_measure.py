"""What a measure of sets of images is: a figure of several methods on the same images, from a vector of each image."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from alignbench.statistics.resampling import CONFIDENCE, Estimate, Resampling
from alignbench.statistics.significance import Level

Floats = NDArray[np.float64]


class SetMeasure(ABC):
    """A figure of the images of each of several methods as a set.

    All methods have the same images, so sets of unequal size never meet. The unit of uncertainty is the cluster: all
    images of one prompt text. Two images of one cluster are no pair of independent images.

    Args:
        methods: vectors of the images of each method, [S, N, D] for S training seeds; those of base come first.
        images: prompt id and number of each of the N images.
        resampling: made for their prompts.

    Attributes:
        name: in tables.
        version: raised whenever a figure could change.
        needs_base: whether the figure itself is about base's images, so that there is none without a base.
    """

    name: str
    version: ClassVar[str] = "1"
    needs_base: ClassVar[bool] = False

    @abstractmethod
    def __init__(
        self, methods: Sequence[ArrayLike], images: Sequence[tuple[str, int]], resampling: Resampling
    ) -> None: ...

    @property
    @abstractmethod
    def is_defined(self) -> bool:
        """Whether there are images enough."""

    @abstractmethod
    def value(self, method: int) -> Estimate:
        """Return the figure of a method, the mean over training seeds; ends of NaN where it has no interval."""

    @abstractmethod
    def over_base(self, method: int) -> tuple[Estimate, float]:
        """Return how much larger it is than that of the first method, and the p-value, over prompts and seeds."""


def squared_distances(a: Floats, b: Floats) -> Floats:
    """Return |a_i - b_j|^2 of vectors [N, D] and [M, D], [N, M], without the digits that rounding makes negative."""
    squares = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1)
    return np.maximum(squares - 2 * a @ b.T, 0)


def symmetric_interval(value: float, levels: Sequence[Level]) -> Estimate:
    """Return a figure with its interval by Student's distribution, from the variances that it depends on."""
    variances = np.array([level.variance for level in levels])
    if not variances.any():
        return Estimate(value, value, value)
    freedom = variances.sum() ** 2 / sum(level.variance**2 / level.freedom for level in levels)  # Satterthwaite
    half_width = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom) * np.sqrt(variances.sum()))
    return Estimate(value, value - half_width, value + half_width)
