"""What the simulated annotators think of an image: the law behind the preference data of the shapes world."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from alignbench.evaluator import Evaluator
from alignbench.miniature.annotators import MEAN_WEIGHTS, Population, features
from alignbench.miniature.reading import Reading
from evaluators.shapes_oracle import OracleReading, refusal


class ShapesAnnotators(Evaluator):
    """Mean utility of an image to the population, in logits: a difference is how strongly the average person prefers.

    The mean is the same for every population, whatever its size, spread and seed. Needs prompts of the grammar.
    """

    name = "shapes_annotators"
    version = "2"
    range = (float(MEAN_WEIGHTS.clip(max=0.0).sum()), float(MEAN_WEIGHTS.clip(min=0.0).sum()))
    preprocess = OracleReading()
    calibrated_on = "scenes"
    matches_prompts = True

    def __init__(self) -> None:
        self.population = Population()

    def supports(self, prompts: Sequence[str]) -> str | None:
        return refusal(self.name, prompts)

    def encode_prompts(self, prompts: Sequence[str]) -> list[str]:
        """Return the prompts; people read them as they are."""
        return list(prompts)

    def score_features(self, inputs: Sequence[Reading], encoded: Sequence[str]) -> Tensor:
        """Ask the population about each image."""
        seen = np.stack([features(reading, prompt) for reading, prompt in zip(inputs, encoded, strict=True)])
        return torch.from_numpy(self.population.mean_utility(seen)).float()
