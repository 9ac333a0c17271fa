"""How far images are from those that a judge learned from: far away from them, its scores mean little."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alignbench.errors import UserError
from alignbench.evaluator import Evaluator
from alignbench.store.reward_model_folder import DISTANCE, read_range
from evaluators.judge import TrainedRewardModel


class RewardModelDistance(Evaluator):
    """Distance of an image's features from those of a judge's training images; lower is closer, 1 is the limit.

    The root mean square over features of their distance from the mean of the training images, in standard deviations,
    divided by a limit: 99 % of the images of pairs that the judge did not train on lie below 1.

    Args:
        path: the folder of the judge.
        source: as for `TrainedRewardModel`.

    Raises:
        UserError: the folder holds no judge, or one that noted nothing of its training images.
    """

    version = "1"
    higher_is_better = False
    range = (0.0, float("inf"))

    def __init__(self, path: str, source: str | None = None) -> None:
        self.judge = TrainedRewardModel(path, source)
        self.name = f"{self.judge.name}{DISTANCE}"
        self.preprocess = self.judge.preprocess
        self.calibrated_on = self.judge.calibrated_on
        self.seen = read_range(Path(path))
        if self.seen is None:
            raise UserError(
                f"judge {self.judge.name} was trained by a version that noted nothing of its training images; train it "
                "again, or leave its distance out of evaluators"
            )

    @property
    def weights(self) -> str:
        return self.judge.weights

    @cached_property
    def network(self) -> nn.Module:
        """The judge, frozen."""
        return self.judge.network

    def encode_prompts(self, prompts: Sequence[str]) -> list[Any]:
        """Return nothing for each prompt: a distance has none."""
        return [None] * len(prompts)

    @torch.no_grad()
    def image_features(self, inputs: Any) -> Tensor:
        """Return what the judge sees of preprocessed pixels [N, 3, H, W]."""
        return self.judge.image_features(inputs)

    def score_features(self, features: Tensor, encoded: object) -> Tensor:
        """Return the distance of image features, [N]."""
        del encoded
        assert self.seen is not None
        return self.seen.distance(features)
