"""The best of several settings, and what a setting wins that was chosen on other prompts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alignbench.statistics.resampling import Estimate, Floats, Resampling


@dataclass(frozen=True)
class BestOf:
    """The best of several settings.

    Attributes:
        best: number of the setting with the highest win rate; the first of several.
        on_other_prompts: win rate of a setting that is chosen on one half of the prompts, on the other half, averaged
            over both ways. The win rate of `best` itself is too high: it was chosen on the prompts that it is measured
            on.
    """

    best: int
    on_other_prompts: Estimate


def best_of(wins: Sequence[Floats], resampling: Resampling) -> BestOf:
    """Choose among settings, with an interval over prompts and, where there are several, training seeds.

    Args:
        wins: of each setting, for its training seed s on image n, 1 won, 0.5 tie, 0 lost against base: [S, N].
        resampling: of the N images.

    Raises:
        ValueError: there is no setting, or there are fewer than two prompts.
    """
    num_clusters = resampling.num_clusters
    if not wins or num_clusters < 2:
        raise ValueError(f"expected a setting and two prompts, found {len(wins)} and {num_clusters}")
    sizes = np.bincount(resampling.cluster, minlength=num_clusters)
    counts = np.concatenate([np.ones((1, num_clusters)), resampling.counts])  # [1 + R, C], first all prompts once
    halves = np.arange(num_clusters) % 2 == 0

    def rates(chosen: np.ndarray) -> Floats:
        """Return the win rate of each setting on some prompts, of all and in each resample, [1 + R, K]."""
        num_images = np.maximum(counts[:, chosen] @ sizes[chosen], 1)
        found = []
        for stream, of_setting in enumerate(wins):
            sums = resampling.cluster_sums(of_setting)[:, chosen]  # [S, C']
            by_seed = (counts[:, chosen] @ sums.T) / num_images[:, None]  # [1 + R, S]
            found.append((by_seed * _weights_of_seeds(len(sums), resampling, stream)).sum(axis=1))
        return np.stack(found, axis=1)

    one, other = rates(halves), rates(~halves)
    rows = np.arange(len(one))
    crossed = (other[rows, one.argmax(axis=1)] + one[rows, other.argmax(axis=1)]) / 2
    everywhere = [float(of_setting.mean()) for of_setting in wins]
    return BestOf(int(np.argmax(everywhere)), resampling.interval(float(crossed[0]), crossed[1:]))


def _weights_of_seeds(num_seeds: int, resampling: Resampling, stream: int) -> Floats:
    """Return how much each training seed counts, of all and in each resample, [1 + R, S]; each row adds up to 1."""
    rng = np.random.default_rng([resampling.seed, num_seeds, stream])
    drawn = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=resampling.num_resamples)
    return np.concatenate([np.ones((1, num_seeds)), drawn]) / num_seeds
