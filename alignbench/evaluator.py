"""Evaluators turn images into scores; rewards are evaluators with a gradient."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn


class Preprocess(ABC):
    """Turns pictures into what evaluators read. Instances that compare equal are computed once for all of them."""

    @property
    @abstractmethod
    def key(self) -> str:
        """What decides the result: kind, size, interpolation, constants."""

    @abstractmethod
    def __call__(self, images: Sequence[Image.Image]) -> Any:
        """Return the inputs of pictures of any mode, one entry each: a tensor for a network, a list for a program."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Preprocess) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


class Evaluator(ABC):
    """One number an image, in the scale of its publication.

    Construction is cheap: weights are read when `network` is first used, so that a run can be checked before it starts.

    Attributes:
        name: as typed in `evaluators=` and printed in tables.
        version: raised whenever a score could change; scores of two versions never share a table.
        higher_is_better: direction.
        range: smallest and largest possible score; infinities where unbounded.
        precision: in which numbers the network computes; scores of two precisions never share a table.
        display_scale: factor in displays (100 for the cosines of the papers); scores keep the published scale.
        preprocess: the published preprocessing.
    """

    name: str
    version: str
    higher_is_better: ClassVar[bool] = True
    range: tuple[float, float] = (float("-inf"), float("inf"))
    precision: str = "float32"
    display_scale: float = 1.0
    preprocess: Preprocess

    @cached_property
    def network(self) -> nn.Module | None:
        """The scoring network, frozen; None for a program."""
        return None

    @property
    def device(self) -> torch.device:
        """Where the network lies; the CPU for a program."""
        return next(self.network.parameters()).device if self.network is not None else torch.device("cpu")

    def to(self, device: torch.device | str) -> None:
        """Move the network, loading it if need be."""
        if self.network is not None:
            self.network.to(device)

    def supports(self, prompts: Sequence[str]) -> str | None:
        """Return None if these prompts can be scored, otherwise a sentence that says why not. Loads nothing."""
        return None

    @abstractmethod
    def encode_prompts(self, prompts: Sequence[str]) -> Tensor | list[Any]:
        """Return what `score_inputs` needs of the prompts, one entry a prompt, whatever the other prompts are."""

    @abstractmethod
    def score_inputs(self, inputs: Any, encoded: Any) -> Tensor:
        """Score preprocessed images against encoded prompts, entry by entry.

        Returns:
            Scores, [N], float32, in the published scale.
        """

    @torch.no_grad()
    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
        """Score each image against its prompt by the published path. Returns [N], float32, on the CPU."""
        return self.score_inputs(self.preprocess(images), self.encode_prompts(prompts)).float().cpu()


class Reward(Evaluator):
    """An evaluator that can be trained on: differentiable with respect to pixels.

    Attributes:
        has_embeddings: True where image and text meet as two unit vectors; relative rewards then cost one image pass.
        embedding_scale: factor on the similarity of two unit vectors where it is used as a training reward.
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
        """Return unit image features, [N, D], float32, with a gradient; pixels [N, 3, H, W] in 0..1."""
        raise TypeError(f"reward {self.name} has no embeddings")

    def embed_text(self, prompts: Sequence[str]) -> Tensor:
        """Return unit text features, [N, D], float32, without a gradient."""
        raise TypeError(f"reward {self.name} has no embeddings")
