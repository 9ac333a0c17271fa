"""Vendi score: how many unlike images the images of one prompt are worth."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from alignbench.statistics.intervals import PairedScores
from alignbench.statistics.resampling import Estimate, Resampling
from alignbench.statistics.sets.set_measure import Floats, SetMeasure

MIN_IMAGES = 4  # of a prompt: of two, the score says no more than their cosine


def vendi_score(vectors: ArrayLike) -> Floats:
    """Return the exponential of the entropy of the eigenvalues of K / n, K the cosines of n unit vectors.

    Args:
        vectors: unit vectors of sets, [..., n, D].

    Returns:
        By set, [...]: 1 where all images are equal, n where all are orthogonal. It grows with n, so only scores of sets
        of one size can be compared.

    Source: Friedman and Dieng 2023 (The Vendi Score), arXiv 2210.02410, of order 1.
    """
    rows = np.asarray(vectors, dtype=np.float64)
    shares = np.linalg.eigvalsh(rows @ rows.swapaxes(-1, -2) / rows.shape[-2])
    positive = np.where(shares > 0, shares, 1)  # what rounding puts below 0 adds nothing, as 1 does
    return np.exp(-(positive * np.log(positive)).sum(axis=-1))


class Vendi(SetMeasure):
    """The mean over prompts of the Vendi score of one prompt's images.

    Every prompt has the same number of images, which the name says: the least that any has of all methods, the first
    ones of each.
    """

    def __init__(self, methods: Sequence[ArrayLike], images: Sequence[tuple[str, int]], resampling: Resampling) -> None:
        positions: dict[str, list[int]] = {}
        for position, (prompt_id, _) in enumerate(images):
            positions.setdefault(prompt_id, []).append(position)
        self.num_images = min(len(of) for of in positions.values())
        self.name = f"vendi_{self.num_images}"
        chosen = np.array([of[: self.num_images] for of in positions.values()])
        by_prompt = Resampling(resampling.cluster[chosen[:, 0]], resampling.num_resamples, resampling.seed)
        scores = [vendi_score(np.asarray(method)[:, chosen]) for method in methods]
        self._paired = PairedScores(scores, by_prompt)

    @property
    def is_defined(self) -> bool:
        return self.num_images >= MIN_IMAGES

    def value(self, method: int) -> Estimate:
        return self._paired.mean(method)

    def over_base(self, method: int) -> tuple[Estimate, float]:
        found = self._paired.compare(method, 0)
        return found.gain, found.p_gain
