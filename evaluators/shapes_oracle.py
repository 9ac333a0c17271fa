"""The truth of the shapes world: a program that reads an image and says how right, how real and how clean it is."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from alignbench.evaluator import Evaluator, Preprocess
from alignbench.miniature.captions import Demand, is_scene_prompt, parse
from alignbench.miniature.oracle import facts
from alignbench.miniature.reading import Reading, read
from alignbench.miniature.scenes import IMAGE_SIZE
from evaluators.networks.preprocess import uint8_array

Aspect = Literal["agreement", "realism", "cleanliness"]


class OracleReading(Preprocess):
    """What the oracle reads from each picture, brought to 64 px. Read once for all evaluators that judge by it."""

    @property
    def key(self) -> str:
        return f"oracle_{IMAGE_SIZE}"

    def __call__(self, images: Sequence[Image.Image]) -> list[Reading]:
        """Return one reading an image."""
        return [read(uint8_array(image, IMAGE_SIZE)) for image in images]


def refusal(name: str, prompts: Sequence[str]) -> str | None:
    """Say which prompts an evaluator that judges by the grammar of the shapes world cannot judge; None if it can."""
    strange = [prompt for prompt in prompts if not is_scene_prompt(prompt)]
    if not strange:
        return None
    return (
        f"{name} judges by prompts of the shapes world alone, and {len(strange)} of {len(prompts)} prompts are not in "
        f"its grammar, such as {strange[0]!r}"
    )


class ShapesOracle(Evaluator):
    """One aspect of an image of the shapes world, 0..1. Never trained on.

    agreement: share of the prompt's demands that the image meets; prompts outside the grammar have none.
    realism: how much it looks shaded, with light and cast shadows; reads the image alone.
    cleanliness: absence of grain, foreign colours and stray blobs; reads the image alone.
    """

    version = "2"
    range = (0.0, 1.0)
    preprocess = OracleReading()
    calibrated_on = "scenes"

    def __init__(self, aspect: Aspect) -> None:
        if aspect not in get_args(Aspect):
            raise ValueError(f"aspect={aspect} is unknown; available: {', '.join(get_args(Aspect))}")
        self.aspect = aspect
        self.name = f"shapes_oracle_{aspect}"
        self.matches_prompts = aspect == "agreement"

    def supports(self, prompts: Sequence[str]) -> str | None:
        return refusal(self.name, prompts) if self.aspect == "agreement" else None

    def encode_prompts(self, prompts: Sequence[str]) -> list[Demand | None]:
        """Return what each prompt asks for; nothing where the aspect does not depend on it."""
        return [parse(prompt) if self.aspect == "agreement" else None for prompt in prompts]

    def score_features(self, inputs: Sequence[Reading], encoded: Sequence[Demand | None]) -> Tensor:
        """Judge each reading."""
        return torch.tensor([self._judge(*pair) for pair in zip(inputs, encoded, strict=True)], dtype=torch.float32)

    def _judge(self, reading: Reading, demand: Demand | None) -> float:
        if demand is not None:
            return float(np.mean(list(facts(reading, demand).values())))
        return reading.realism if self.aspect == "realism" else reading.cleanliness
