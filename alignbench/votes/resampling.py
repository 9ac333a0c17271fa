"""How sure votes are: prompts and raters are both drawn anew, as another study would draw both."""

from collections.abc import Hashable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from alignbench.statistics.resampling import NUM_RESAMPLES, Estimate, Floats, Resampling


class CrossedResampling(Resampling):
    """The bootstrap resamples of votes that are crossed by prompt and by rater; any cell may be empty.

    A resample draws as many prompts as there are, and one rater fewer than there are, both with replacement; a vote
    counts as often as its prompt was drawn times its rater. With one rater fewer the variance over S raters is that of
    a new sample, where S draws would show (S-1)/S of it. The product of the two draws is mildly conservative; no
    resampling of crossed data is exact. With one rater, intervals are over prompts alone and hold for that rater.

    Args:
        prompts, raters: what each of the N votes belongs to.

    Source: Owen 2007, "The pigeonhole bootstrap"; Rao & Wu 1988, "Resampling inference with complex survey data" (one
    draw fewer).
    """

    def __init__(
        self,
        prompts: Sequence[Hashable],
        raters: Sequence[Hashable],
        num_resamples: int = NUM_RESAMPLES,
        seed: int = 0,
    ) -> None:
        super().__init__(zip(prompts, raters, strict=True), num_resamples, seed)
        cells = dict.fromkeys(zip(prompts, raters, strict=True))  # in the order of the clusters
        self._prompts = Resampling((prompt for prompt, _ in cells), num_resamples, seed)
        self._raters = Resampling((rater for _, rater in cells), num_resamples, seed)

    @cached_property
    def counts(self) -> NDArray[np.uint16]:
        """How often each resample holds each cell, [R, C]."""
        num_raters = self._raters.num_clusters
        drawn = np.ones((self.num_resamples, num_raters), dtype=np.uint16)
        if num_raters > 1:
            rng = np.random.default_rng([self.seed, num_raters, 2])  # unlike the stream of as many prompts
            drawn = rng.multinomial(num_raters - 1, np.full(num_raters, 1 / num_raters), self.num_resamples)
        return self._prompts.counts[:, self._prompts.cluster] * drawn.astype(np.uint16)[:, self._raters.cluster]

    def sums_by_level(self, values: Floats) -> list[Floats]:
        """Add up what belongs to each prompt, [K, N] to [K, P], and to each rater, [K, S], where there are several."""
        cells = self.cluster_sums(values)
        drawn = [self._prompts, self._raters] if self._raters.num_clusters > 1 else [self._prompts]
        return [level.cluster_sums(cells) for level in drawn]

    def num_units(self, sums: Floats | None = None) -> int:
        """Return how many prompts have votes, or those of them where `sums`, by cell, is not 0."""
        cells = slice(None) if sums is None else np.flatnonzero(sums)
        return len(np.unique(self._prompts.cluster[cells]))

    def means(self, values: Floats) -> Floats:
        """Return the mean of each row in each resample, [K, N] to [K, R]; NaN where it holds no vote."""
        with np.errstate(invalid="ignore"):
            return super().means(values)

    def interval(self, value: float, draws: Floats) -> Estimate:
        """Return `value` with the percentile interval of the resamples that hold a vote."""
        return super().interval(value, draws[~np.isnan(draws)])
