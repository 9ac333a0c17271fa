"""Where a curve of win rates over training turns: the point that overoptimisation starts from (Goodhart's law)."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alignbench.statistics.resampling import CONFIDENCE, NUM_RESAMPLES, Estimate, Resampling

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TurningPoint:
    """The highest point of a curve, and how far the curve falls after it.

    Attributes:
        peak, first, last: index of the highest point, and the ends of its 95 % interval.
        drop: win rate at the peak minus that at the end, 0 to 1. The peak is chosen on one half of the prompts and the
            drop is measured on the other, both ways round: a peak that is chosen and measured on the same prompts is
            too high, and every curve would seem to fall.
    """

    peak: int
    first: int
    last: int
    drop: Estimate

    @property
    def turned(self) -> bool:
        """Whether the interval of the drop is above 0."""
        return self.drop.low > 0


def turning_point(
    wins: Floats, clusters: Sequence[Hashable], num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> TurningPoint:
    """Find the highest point of the mean curve, with intervals over prompts and, where there are several, seeds.

    Args:
        wins: of training seed s at point l on image n, 1 won, 0.5 tie, 0 lost against the start: [S, L, N].
        clusters: what each image belongs to, usually its prompt text, N of them; at least two.

    Raises:
        ValueError: fewer than two points or clusters.
    """
    num_seeds, num_points, _ = wins.shape
    resampling = Resampling(clusters, num_resamples, seed)
    if num_points < 2 or resampling.num_clusters < 2:
        raise ValueError(f"expected two points and two prompts, found {num_points} and {resampling.num_clusters}")
    sums = np.array([resampling.cluster_sums(of_seed) for of_seed in wins])  # [S, L, C]
    sizes = np.bincount(resampling.cluster, minlength=resampling.num_clusters)
    halves = np.arange(resampling.num_clusters) % 2 == 0

    rng = np.random.default_rng([seed, num_seeds])
    drawn = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=num_resamples)  # [R, S]
    counts = np.concatenate([np.ones((1, resampling.num_clusters)), resampling.counts])
    weights = np.concatenate([np.ones((1, num_seeds)), drawn]) / num_seeds

    def curves(chosen: NDArray[np.bool_]) -> Floats:
        """Return the curve of all, and of each resample, on some clusters: [1 + R, L]."""
        total = np.einsum("rs,slc,rc->rl", weights, sums[:, :, chosen], counts[:, chosen], optimize=True)
        num_images = counts[:, chosen] @ sizes[chosen]
        return total / np.maximum(num_images, 1)[:, None]

    peaks = curves(np.ones_like(halves)).argmax(axis=1)
    one, other = curves(halves), curves(~halves)
    rows = np.arange(len(one))
    drops = (
        (other[rows, one.argmax(axis=1)] - other[:, -1]) + (one[rows, other.argmax(axis=1)] - one[:, -1])
    ) / 2  # fmt: skip
    tail = 50 * (1 - CONFIDENCE)
    first, last = np.percentile(peaks[1:], [tail, 100 - tail], method="nearest")
    low, high = np.percentile(drops[1:], [tail, 100 - tail])
    return TurningPoint(int(peaks[0]), int(first), int(last), Estimate(float(drops[0]), float(low), float(high)))
