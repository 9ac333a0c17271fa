"""Significance tests over clusters of prompts, and their adjustment for many comparisons."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

NUM_FLIPS = 9999
MAX_EXACT_CLUSTERS = 14  # up to here all 2^14 sign patterns are tried
_CHUNK = 256  # random sign patterns held in memory at a time


def sign_test(gains: ArrayLike) -> float:
    """Return the exact two-sided p-value for gains, one a cluster, to lie above 0 as often as below; zeros drop out."""
    values = np.asarray(gains, dtype=np.float64)
    above, below = int((values > 0).sum()), int((values < 0).sum())
    return float(stats.binomtest(above, above + below).pvalue) if above + below else 1.0


def sign_flip_test(gains: ArrayLike, num_flips: int = NUM_FLIPS, seed: int = 0) -> float:
    """Return the two-sided p-value of the sum of `gains`, one a cluster, if each had either sign alike.

    Up to 14 clusters with a gain all sign patterns are tried. Beyond that `num_flips` random ones are, and
    p = (k + 1) / (num_flips + 1) for k sums at least as large. Where the gain is too clear for so many to resolve, p is
    Hoeffding's upper bound 2 exp(-sum^2 / (2 sum of squares)), which is never below the exact value.
    """
    values = np.asarray(gains, dtype=np.float64)
    values = values[values != 0]
    if not len(values):
        return 1.0
    values = values / np.abs(values).max()
    observed = abs(values.sum()) - 1e-9  # sums that differ by rounding alone are equal
    if len(values) <= MAX_EXACT_CLUSTERS:
        patterns = (np.arange(2 ** (len(values) - 1))[:, None] >> np.arange(len(values))) & 1  # half; the rest mirrors
        return float((np.abs((1 - 2.0 * patterns) @ values) >= observed).mean())
    bound = 2 * float(np.exp(-(values.sum() ** 2) / (2 * np.square(values).sum())))
    if bound <= 1 / (num_flips + 1):
        return bound
    rng = np.random.default_rng([seed, len(values)])
    width = -(-len(values) // 8)
    # a bit a gain; eight gains together have 256 sums, looked up instead of added
    eights = np.pad(values, (0, 8 * width - len(values))).reshape(width, 8)
    sums = (eights @ np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).T).ravel()
    offsets = np.arange(width) * 256
    at_least = 0
    for start in range(0, num_flips, _CHUNK):
        size = min(_CHUNK, num_flips - start)
        packed = np.frombuffer(rng.bytes(size * width), dtype=np.uint8).reshape(size, width)
        kept = sums[packed + offsets].sum(axis=1)
        at_least += int((np.abs(2 * kept - values.sum()) >= observed).sum())
    return (at_least + 1) / (num_flips + 1)


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Return Holm's adjusted p-values of one family of tests; NaN marks what was not tested and does not count."""
    p = np.asarray(p_values, dtype=np.float64)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    adjusted = np.full_like(p, np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1)
    return adjusted
