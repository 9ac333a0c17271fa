"""Evaluators turn images into scores; rewards are evaluators with a gradient."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn


class Preprocess(ABC):
    """Turns pictures into network inputs. Instances that compare equal are computed once for all their evaluators."""

    @property
    @abstractmethod
    def key(self) -> Hashable:
        """What decides the result: kind, size, interpolation, constants."""

    @abstractmethod
    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """Return the inputs, one row an image."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Preprocess) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


class Evaluator(ABC):
    """One number an image, in the scale of its publication.

    Attributes:
        name: as typed in `evaluators=` and printed in tables.
        version: raised whenever a score could change; scores of two versions never share a table.
        higher_is_better: direction.
        range: smallest and largest possible score; infinities where unbounded.
        scene_prompts_only: True where the evaluator has a meaning only for prompts of the shapes world.
        preprocess: the published preprocessing.
        network: the scoring network, or None for a program.
    """

    name: str
    version: str
    higher_is_better: ClassVar[bool] = True
    range: ClassVar[tuple[float, float]] = (float("-inf"), float("inf"))
    scene_prompts_only: ClassVar[bool] = False
    preprocess: Preprocess
    network: nn.Module | None = None

    @abstractmethod
    def encode_prompts(self, prompts: Sequence[str]) -> Any:
        """Return what `score_inputs` needs of the prompts, one entry a prompt (a tensor or a list)."""

    @abstractmethod
    def score_inputs(self, inputs: Tensor, encoded: Any) -> Tensor:
        """Score preprocessed images against encoded prompts, row by row.

        Returns:
            Scores, [N], float32, in the published scale.
        """

    @torch.no_grad()
    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
        """Score each image against its prompt by the published path. Returns [N], float32."""
        inputs = self.preprocess(images)
        if self.network is not None:
            inputs = inputs.to(next(self.network.parameters()).device)
        return self.score_inputs(inputs, self.encode_prompts(prompts)).float().cpu()


class Reward(Evaluator):
    """An evaluator that can be trained on: differentiable with respect to pixels.

    Attributes:
        has_embeddings: True where image and text meet as two unit vectors, so that relative rewards cost one image pass.
        embedding_scale: factor on the similarity when it is used as a training reward.
    """

    has_embeddings: ClassVar[bool] = False
    embedding_scale: float = 1.0

    @abstractmethod
    def reward(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the score of each image, with a gradient.

        Args:
            pixels: [N, 3, H, W], float, 0..1.

        Returns:
            Rewards, [N], float32, in the scale of `score`.
        """

    def embed_image(self, pixels: Tensor) -> Tensor:
        """Return unit image features, [N, D], with a gradient; pixels [N, 3, H, W] in 0..1."""
        raise TypeError(f"reward {self.name} has no embeddings")

    def embed_text(self, prompts: Sequence[str]) -> Tensor:
        """Return unit text features, [N, D], without a gradient."""
        raise TypeError(f"reward {self.name} has no embeddings")
