"""What the simulated annotators think of an image: the law behind the preference data of the shapes world."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from alignbench.evaluator import Evaluator, Preprocess
from alignbench.miniature.annotators import MEAN_WEIGHTS, Population, features
from alignbench.miniature.scenes import IMAGE_SIZE
from evaluators.preprocess import uint8_array


class UInt8Pixels(Preprocess):
    """The picture itself, brought to 64 px."""

    @property
    def key(self) -> str:
        return f"uint8_{IMAGE_SIZE}"

    def __call__(self, images: Sequence[Image.Image]) -> list[np.ndarray]:
        """Return uint8 pixels, [64, 64, 3] each."""
        return [uint8_array(image, IMAGE_SIZE) for image in images]


class ShapesAnnotators(Evaluator):
    """Mean utility of an image to the population, in logits: a difference is how strongly the average person prefers.

    The mean is the same for every population, whatever its size, spread and seed. Needs prompts of the grammar.
    """

    name = "shapes_annotators"
    version = "1"
    range = (float(MEAN_WEIGHTS.clip(max=0.0).sum()), float(MEAN_WEIGHTS.clip(min=0.0).sum()))
    scene_prompts_only = True
    preprocess = UInt8Pixels()

    def __init__(self) -> None:
        self.population = Population()

    def encode_prompts(self, prompts: Sequence[str]) -> list[str]:
        """Return the prompts; people read them as they are."""
        return list(prompts)

    def score_inputs(self, inputs: Sequence[np.ndarray], encoded: Sequence[str]) -> Tensor:
        """Ask the population about each image."""
        seen = np.stack([features(image, prompt) for image, prompt in zip(inputs, encoded, strict=True)])
        return torch.from_numpy(self.population.mean_utility(seen)).float()
