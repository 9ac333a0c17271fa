"""A comparer of the shapes world that needs no network: the simulated people, with a liking for the first image."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alignbench.miniature.annotators import Population, features
from alignbench.miniature.reading import Reading
from alignbench.pairwise.comparer import Comparer, Verdict
from evaluators.shapes_oracle import OracleReading, refusal


class ShapesComparer(Comparer):
    """The average person of the shapes world, in log-odds, plus a known bias for the first image.

    Without bias it prefers what `shapes_annotators` prefers. It shows what a position bias does to figures.

    Args:
        position_bias: what the first place is worth, in log-odds; 1 prefers the first of two equal images in 73 %.
    """

    name = "shapes_comparer"
    version = "1"
    precision = "float64"
    preprocess = OracleReading()
    batch_size = 64
    labelled_by = ("shapes_annotators",)

    def __init__(self, position_bias: float = 0.5) -> None:
        self.position_bias = position_bias
        self.population = Population()

    @classmethod
    def weight_bytes(cls, settings: Mapping[str, Any]) -> int:
        return 0

    @property
    def weights(self) -> str:
        return f"position_bias={self.position_bias:g}"

    def supports(self, prompts: Sequence[str]) -> str | None:
        return refusal(self.name, prompts)

    def compare(self, first: Sequence[Reading], second: Sequence[Reading], prompts: Sequence[str]) -> list[Verdict]:
        """Compare readings by what the average person thinks of them."""
        found = []
        for one, other, prompt in zip(first, second, prompts, strict=True):
            utility = self.population.mean_utility(np.stack([features(one, prompt), features(other, prompt)]))
            log_odds = float(utility[0] - utility[1]) + self.position_bias
            found.append(Verdict.of_log_odds(log_odds, raw="A" if log_odds > 0 else "B"))
        return found
