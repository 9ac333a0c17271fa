"""What evaluators share of which nothing is known but their scores: a program or a function of the user's."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from alignbench.errors import UserError
from alignbench.evaluator import Evaluator
from alignbench.serve.protocol import is_name
from evaluators.networks.preprocess import Pictures

Version = str | int | float  # as typed: 1, 1.2 and b7 are versions


class BlackBox(Evaluator):
    """An evaluator that is asked for the scores of pictures and their prompts. It has no gradient.

    Args:
        name: under which scores are kept.
        version: raised by the user whenever a score could change.
        higher_is_better: direction.
        display_scale: factor in displays, above 0.

    Raises:
        UserError: an argument is of no use. When asked: the answer is not one finite number an image.
    """

    preprocess = Pictures()

    def __init__(self, name: str, version: Version, higher_is_better: bool, display_scale: float) -> None:
        for key, value in (("name", name), ("version", str(version))):
            if not is_name(value):
                raise UserError(f"{key}={value} must consist of letters, digits and _ . + -")
        if not 0 < display_scale < math.inf:
            raise UserError(f"display_scale={display_scale} must be a number above 0")
        self.name, self.version, self.display_scale = name, str(version), display_scale
        self._higher_is_better = higher_is_better

    @property
    def higher_is_better(self) -> bool:
        return self._higher_is_better

    @property
    @abstractmethod
    def called(self) -> str:
        """How messages call it."""

    @abstractmethod
    def ask(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Sequence[Any]:
        """Return what it answers for RGB pictures and their prompts: a number for each, if all is well."""

    def encode_prompts(self, prompts: Sequence[str]) -> list[str]:
        """Return the prompts."""
        return list(prompts)

    def score_features(self, features: Sequence[Image.Image], encoded: Sequence[str]) -> Tensor:
        """Ask for the scores of pictures."""
        answers = self.ask(features, encoded)
        if len(answers) != len(features):
            raise UserError(f"{self.called} gave {len(answers)} scores for {len(features)} images; correct it")
        scores = [_number(answer) for answer in answers]
        if wrong := [answer for answer, score in zip(answers, scores, strict=True) if not math.isfinite(score)]:
            raise UserError(f"{self.called} gave the score {wrong[0]!r:.100}; a score must be one finite number")
        return torch.tensor(scores, dtype=torch.float64).float()


def _number(value: Any) -> float:
    """Return a score as a number; NaN for what is none."""
    if isinstance(value, bool | str):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
