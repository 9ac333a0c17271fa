"""Judges: networks that learn from pairs of images which of two people prefer."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from alignbench.evaluator import Evaluator, Preprocess


class RewardModel(nn.Module, ABC):
    """Gives images scores whose differences are log-odds: of two images, the first is preferred with probability
    sigmoid(its score - the other's score).

    Attributes:
        kind: how `config.json` of a trained judge calls the class.
        frozen_features: whether training changes neither `image_features` nor `text_features`, so that each image and
            each prompt goes through them once.
        builds_on_start: whether the network of the evaluator that it was trained from is part of it, and so not kept a
            second time.
        has_embeddings: whether both are unit vectors that meet in a cosine.
        preprocess: how pictures become its inputs.
        log_scale: logarithm of a factor on all scores, fitted when everything else is; a buffer.
    """

    kind: ClassVar[str]
    frozen_features: bool = False
    builds_on_start: ClassVar[bool] = False
    has_embeddings: ClassVar[bool] = False
    preprocess: Preprocess
    log_scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("log_scale", torch.zeros(()))

    @abstractmethod
    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Return what `text_features` reads of prompts, [N, L], on the CPU; L may be that of the longest prompt."""

    @abstractmethod
    def image_features(self, inputs: Tensor) -> Tensor:
        """Return what `compare` reads of preprocessed images, [N, 3, H, W], one entry an image."""

    @abstractmethod
    def text_features(self, encoded: Tensor) -> Tensor:
        """Return what `compare` reads of encoded prompts, one entry a prompt."""

    @abstractmethod
    def compare(self, images: Tensor, texts: Tensor) -> Tensor:
        """Return the scores of images under prompts, [N], from the features of both, entry by entry."""

    def forward(self, images: Tensor, texts: Tensor) -> Tensor:
        """Return scores, [K * N], of K images for each prompt: the first of every prompt, then the second, and so on.

        Args:
            images: preprocessed, or their features where those are frozen; K * N entries.
            texts: prompts as `encode_prompts` gives them, or their features where those are frozen; N entries.
        """
        if not self.frozen_features:
            images, texts = self.image_features(images), self.text_features(texts)
        num_images = len(images) // len(texts)
        return self.compare(images, texts.repeat(num_images, *[1] * (texts.ndim - 1)))

    # ---- what is kept of a trained judge

    @abstractmethod
    def description(self) -> dict[str, Any]:
        """Return what `restored` needs besides the tensors, as JSON."""

    def kept_state(self) -> dict[str, Tensor]:
        """Return the tensors that are saved."""
        return self.state_dict()

    def save_parts(self, folder: Path) -> None:
        """Write what a judge needs besides description and tensors, such as a tokenizer. By default nothing."""
        del folder

    @classmethod
    @abstractmethod
    def restored(
        cls, description: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path, start: Evaluator | None
    ) -> Self:
        """Return the judge that was saved, frozen and in eval mode.

        Args:
            description: what `description` gave.
            tensors: what `kept_state` gave; they become the judge's own.
            folder: where `save_parts` wrote.
            start: the evaluator that it was trained from, where it `builds_on_start`.

        Raises:
            UserError: the tensors are of another architecture.
        """

    def checkpoint_activations(self) -> None:
        """Compute the image tower's layers twice instead of keeping their activations for the gradient."""


class RewardModelRecipe(ABC):
    """What a judge is made from. Cheap to build: it says in seconds whether `make` can work.

    Attributes:
        kind: as typed in `judge=`.
        start: the evaluator whose network training starts from.
    """

    kind: ClassVar[str]
    start: Evaluator

    @abstractmethod
    def make(self) -> RewardModel:
        """Return the judge as training begins, float32, in train mode; what is trained requires a gradient.

        What is drawn at random comes from torch's global generator.
        """


def freeze_share(layers: nn.ModuleList, before: Sequence[nn.Module], share: float) -> None:
    """Exclude the first layers of a tower from training, and what lies before them.

    Args:
        share: of the layers, 0..1, rounded to whole layers; 0 excludes nothing.
    """
    num = round(share * len(layers))
    for module in [*before, *list(layers)[:num]] if share else []:
        module.requires_grad_(False)
