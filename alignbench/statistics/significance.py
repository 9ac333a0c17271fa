"""Significance tests over clusters of prompts and over training seeds, and their adjustment for many comparisons."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

NUM_FLIPS = 9999
MAX_EXACT_CLUSTERS = 14  # up to here all 2^14 sign patterns are tried
_CHUNK = 256  # random sign patterns held in memory at a time


def sign_test(gains: ArrayLike) -> float:
    """Return the exact two-sided p-value for gains, one a cluster, to lie above 0 as often as below; zeros drop out."""
    return float(sign_tests(np.asarray(gains, dtype=np.float64)[None])[0])


def sign_tests(gains: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the p-value of `sign_test` of each row, [K, C] to [K], at hardly more than the cost of one."""
    above, below = (gains > 0).sum(axis=1), (gains < 0).sum(axis=1)
    return np.minimum(2 * stats.binom.cdf(np.minimum(above, below), above + below, 0.5), 1.0)


def sign_flip_test(
    gains: ArrayLike,
    num_flips: int = NUM_FLIPS,
    seed: int = 0,
    flipped: Callable[[], NDArray[np.float64]] | None = None,
) -> float:
    """Return the two-sided p-value of the sum of `gains`, one a cluster, if each had either sign alike.

    Up to 14 clusters with a gain all sign patterns are tried. Beyond that `num_flips` random ones are, and
    p = (k + 1) / (num_flips + 1) for k sums at least as large. Where the gain is too clear for so many to resolve, p is
    Hoeffding's upper bound 2 exp(-sum^2 / (2 sum of squares)), which is never below the exact value.

    Args:
        flipped: returns what `flipped_sums` returns for these gains, [num_flips], where that is known at less cost.
    """
    values = np.asarray(gains, dtype=np.float64)
    values = values[values != 0]
    if not len(values):
        return 1.0
    scale = np.abs(values).max()
    unscaled, values = values, values / scale
    total = values.sum()
    observed = abs(total) - 1e-9  # sums that differ by rounding alone are equal
    if len(values) <= MAX_EXACT_CLUSTERS:
        patterns = (np.arange(2 ** (len(values) - 1))[:, None] >> np.arange(len(values))) & 1  # half; the rest mirrors
        return float((np.abs((1 - 2.0 * patterns) @ values) >= observed).mean())
    bound = 2 * float(np.exp(-(total**2) / (2 * np.square(values).sum())))
    if bound <= 1 / (num_flips + 1):
        return bound
    if flipped is not None and len(values) == np.size(gains):  # signs are drawn for gains that are not 0
        sums = flipped() / scale
    else:
        sums = flipped_sums(unscaled[None], num_flips, seed)[0] / scale
    return (int(np.count_nonzero(np.abs(sums) >= observed)) + 1) / (num_flips + 1)


def flipped_sums(values: NDArray[np.float64], num_flips: int = NUM_FLIPS, seed: int = 0) -> NDArray[np.float64]:
    """Return the sums of each row under the random signs that `sign_flip_test` gives as many gains: [K, C] to [K, F].

    The sums of a difference of two rows are the difference of theirs. So M methods need M rows for M (M - 1) / 2 tests.
    """
    num = values.shape[1]
    kind = type_of_sums(values)
    addends = values.T.astype(kind)
    kept = [
        np.unpackbits(packed, axis=1, count=num).astype(kind) @ addends
        for packed in _random_signs(num, num_flips, seed)
    ]
    return np.ascontiguousarray(2 * np.concatenate(kept, dtype=np.float64).T - values.sum(axis=1, keepdims=True))


def type_of_sums(addends: NDArray[np.float64], repeated: int = 1) -> type[np.float32 | np.float64]:
    """Return the type that holds sums of each row, [K, C], with all their digits.

    Wins and ties are halves: float32 holds these exactly below 2^23, in whatever order they are added, at half cost.

    Args:
        repeated: how often one of the addends may be in a sum.
    """
    largest = np.abs(addends).sum(axis=1).max() * repeated
    is_exact = largest < 2**23 and bool((2 * addends == np.rint(2 * addends)).all())
    return np.float32 if is_exact else np.float64


def swaps(num: int, num_swaps: int = NUM_FLIPS, seed: int = 0) -> Iterator[NDArray[np.floating]]:
    """Yield ways to exchange the two sides of each of `num` clusters, some at a time, [F, num]: -1 where they are.

    The first keeps all sides, so the share of ways with a statistic at least as large as its own is a p-value. Each way
    comes once where there are at most `num_swaps`; else so many random ones come after the first.
    """
    if 2**num <= num_swaps:
        yield 1 - 2.0 * ((np.arange(2**num)[:, None] >> np.arange(num)) & 1)
        return
    yield np.ones((1, num))
    for packed in _random_signs(num, num_swaps, seed):
        yield 1 - 2.0 * np.unpackbits(packed, axis=1, count=num)


def _random_signs(num: int, num_flips: int, seed: int) -> Iterator[NDArray[np.uint8]]:
    """Yield random signs of `num` gains, a bit each, [at most 256, num / 8 rounded up], `num_flips` rows in all."""
    rng = np.random.default_rng([seed, num])
    width = -(-num // 8)
    for start in range(0, num_flips, _CHUNK):
        size = min(_CHUNK, num_flips - start)
        yield np.frombuffer(rng.bytes(size * width), dtype=np.uint8).reshape(size, width)


@dataclass(frozen=True)
class Level:
    """One thing that a figure would change with if it were drawn anew: prompts, raters, or a method's training seeds.

    Attributes:
        variance: of the figure, from drawing this alone; NaN where it was drawn once.
        freedom: degrees of freedom that the variance was estimated with.
    """

    variance: float
    freedom: int

    @classmethod
    def of_clusters(cls, sums: ArrayLike, sizes: ArrayLike) -> "Level":
        """Return the level of clusters for a mean over all images.

        Args:
            sums: what the images of each cluster add up to, [C].
            sizes: how many there are in each cluster, [C].
        """
        sums, sizes = np.asarray(sums, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
        num_images = sizes.sum()
        residuals = (sums - sizes * sums.sum() / num_images) / num_images
        num = len(sums)
        return cls(float(np.square(residuals).sum() * num / (num - 1)) if num > 1 else np.nan, num - 1)

    @classmethod
    def of_seeds(cls, figures: ArrayLike) -> "Level":
        """Return the level of training seeds for the mean of a figure by seed, [S]; of one seed it is unknown."""
        figures = np.asarray(figures, dtype=np.float64)
        return cls(float(figures.var(ddof=1)) / len(figures) if len(figures) > 1 else np.nan, len(figures) - 1)


def levels_test(value: float, levels: Sequence[Level]) -> float:
    """Return the two-sided p-value for a figure to be 0, when everything that it depends on would be drawn anew.

    The variances add up. Student's distribution has the degrees of freedom of the level that has the fewest: the usual
    (Satterthwaite's) number follows the estimated variances, and where two or three seeds happen to lie close together
    it takes their variance for known and promises too much. This is the conservative choice of Scheffe and Hsu.

    Returns:
        NaN where a level was drawn once, so that nothing is known of its variance.
    """
    error, freedom = _error(levels)
    if math.isnan(error):
        return math.nan
    if error == 0:  # as of a gain that is the same on all prompts and for all seeds
        return float(value == 0)
    return float(2 * special.stdtr(freedom, -abs(value) / error))  # as stats.t.sf, at a hundredth of its cost


def smallest_significant(levels: Sequence[Level], p_value: float) -> float:
    """Return how far from 0 a figure must be for `levels_test` to find `p_value`."""
    error, freedom = _error(levels)
    return float(error * stats.t.isf(p_value / 2, freedom))


def _error(levels: Sequence[Level]) -> tuple[float, int]:
    return math.sqrt(sum(level.variance for level in levels)), min(level.freedom for level in levels)


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Return Holm's adjusted p-values of one family of tests; NaN marks what was not tested and does not count."""
    p = np.asarray(p_values, dtype=np.float64)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    adjusted = np.full_like(p, np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1)
    return adjusted
