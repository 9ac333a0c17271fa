"""Judges made as ImageReward was: a BLIP whose text tower reads the image, and a head that gives the score."""

import copy
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from alignbench.errors import UserError
from alignbench.evaluator import Evaluator
from alignbench.reward_model import RewardModel, RewardModelRecipe, freeze_share
from evaluators.image_reward import VOCABULARY, ImageReward, ImageRewardNetwork, bert_tokenizer, token_ids
from evaluators.networks.checkpoint import assign
from evaluators.networks.clip import checkpoint_layers
from evaluators.networks.preprocess import Pixels, pixels_from, pixels_values

OWN_VOCABULARY = "vocabulary.txt"


class BlipRewardModel(RewardModel):
    """BLIP and the reward head, whose output is the score.

    Args:
        network: both towers and the head.
        architecture: what the network was built with; see `ImageRewardNetwork`.
        preprocess: how pictures become inputs of the vision tower.
        vocabulary: file of the pieces that prompts are cut into; what is not BERT's goes with the judge.
        frozen_vision: whether the vision tower is not trained, so that each image goes through it once.
    """

    kind = "image_reward_like"
    preprocess: Pixels

    def __init__(
        self,
        network: ImageRewardNetwork,
        architecture: Mapping[str, Mapping[str, Any]],
        preprocess: Pixels,
        vocabulary: Path = VOCABULARY,
        frozen_vision: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.architecture = architecture
        self.preprocess = preprocess
        self.vocabulary = vocabulary
        self.frozen_features = frozen_vision
        self._tokenizer = bert_tokenizer(vocabulary)

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Return token ids, [N, 35], padded with 0."""
        return token_ids(self._tokenizer, prompts)

    def image_features(self, inputs: Tensor) -> Tensor:
        """Return image tokens, [N, T, D]."""
        return self.network.vision(pixel_values=inputs).last_hidden_state

    def text_features(self, encoded: Tensor) -> Tensor:
        """Return the token ids: the text tower reads them together with the image."""
        return encoded

    def compare(self, images: Tensor, texts: Tensor) -> Tensor:
        return self.log_scale.exp() * self.network(images, texts)

    def description(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "architecture": {tower: dict(values) for tower, values in self.architecture.items()},
            "preprocess": pixels_values(self.preprocess),
            "vocabulary": VOCABULARY.name if self.vocabulary == VOCABULARY else OWN_VOCABULARY,
        }

    def save_parts(self, folder: Path) -> None:
        if self.vocabulary != VOCABULARY:
            shutil.copyfile(self.vocabulary, folder / OWN_VOCABULARY)

    @classmethod
    def restored(
        cls, description: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path, start: object
    ) -> Self:
        architecture, preprocess = description["architecture"], pixels_from(description["preprocess"])
        vocabulary = folder / OWN_VOCABULARY if description["vocabulary"] == OWN_VOCABULARY else VOCABULARY
        return assign(lambda: cls(ImageRewardNetwork(**architecture), architecture, preprocess, vocabulary), tensors)

    def checkpoint_activations(self) -> None:
        checkpoint_layers(self.network.vision.encoder.layers)


class ImageRewardLike(RewardModelRecipe):
    """The last layers of BLIP and the head are trained, as ImageReward was.

    Args:
        start: the evaluator whose network it starts from: ImageReward, or another BLIP such as `shapes_matching`.
        frozen_share: share of the layers of either tower, from the first on, that stay as they are.
        frozen_vision: whether the whole vision tower stays as it is; its tokens are then computed once and kept.

    Raises:
        UserError: the evaluator is another, or a value is impossible.

    Source: Xu et al. 2023 (ImageReward), arXiv 2304.05977, sections 2.2 and 3.1: the pairwise loss, 0.7 of the layers
    fixed.
    """

    kind = BlipRewardModel.kind

    def __init__(self, start: Evaluator, frozen_share: float, frozen_vision: bool) -> None:
        if not isinstance(start, ImageReward):
            raise UserError(
                f"judge=image_reward_like starts from a BLIP, ImageReward or shapes_matching, and judge.start is "
                f"{start.name}; choose judge=pickscore_like or judge=head for a CLIP"
            )
        if not 0.0 <= frozen_share < 1.0:
            raise UserError(f"judge.frozen_share={frozen_share} must be at least 0 and below 1")
        if not isinstance(frozen_vision, bool):
            raise UserError(f"judge.frozen_vision={frozen_vision} must be true or false")
        self.start: ImageReward = start
        self.frozen_share = frozen_share
        self.frozen_vision = frozen_vision

    def make(self) -> BlipRewardModel:
        network = copy.deepcopy(self.start.network).float().requires_grad_(True)
        freeze_share(network.vision.encoder.layers, [network.vision.embeddings], self.frozen_share)
        if self.frozen_vision:
            network.vision.requires_grad_(False)
        freeze_share(network.text.encoder.layer, [network.text.embeddings], self.frozen_share)
        start = self.start
        return BlipRewardModel(
            network, start.architecture, start.preprocess, start.vocabulary, self.frozen_vision
        ).train()
