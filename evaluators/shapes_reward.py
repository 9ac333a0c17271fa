"""The rewards of the shapes world: two small CLIP models, one trained on captions, one on simulated annotators."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from alignbench.evaluator import Reward
from alignbench.miniature.scenes import IMAGE_SIZE
from evaluators.preprocess import ClipPixels


class ShapesReward(Reward):
    """Similarity of image and prompt in a CLIP model of the shapes world.

    `shapes_clip` scores like CLIPScore, by the cosine. `shapes_preference` scores like PickScore's README, by the
    cosine times the logit scale: the difference of two scores is the log-odds of the one image being preferred.

    Args:
        name: which of the two.
        embedding_scale: factor on the cosine in relative rewards.
    """

    version = "1"
    has_embeddings = True

    def __init__(self, name: Literal["shapes_clip", "shapes_preference"], embedding_scale: float = 1.0) -> None:
        self.name = name
        self.embedding_scale = embedding_scale
        self.pixels = self.preprocess = ClipPixels(IMAGE_SIZE)
        if name == "shapes_clip":
            self.range = (-1.0, 1.0)
        self._text: dict[str, Tensor] = {}  # unit features, on the CPU

    @cached_property
    def network(self) -> CLIPModel:
        """The CLIP model, frozen."""
        return self._loaded[0].requires_grad_(False).eval()

    @cached_property
    def _loaded(self) -> tuple[CLIPModel, CLIPTokenizer]:
        from alignbench.miniature.weights import load_clip

        return load_clip(self.name)

    @cached_property
    def scale(self) -> float:
        """Factor between the cosine and the score."""
        return 1.0 if self.name == "shapes_clip" else float(self.network.logit_scale.exp())

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Return unit text features, [N, D]."""
        return self.embed_text(prompts)

    def score_inputs(self, inputs: Tensor, encoded: Tensor) -> Tensor:
        """Score normalised pixels [N, 3, 64, 64] against text features [N, D]."""
        return self.scale * (self._embed(inputs.to(self.device)) * encoded.to(self.device)).sum(dim=-1)

    def reward(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the score of each image, with a gradient."""
        return self.score_inputs(self.pixels.differentiable(pixels), self.embed_text(prompts))

    def embed_image(self, pixels: Tensor) -> Tensor:
        """Return unit image features, [N, D], with a gradient."""
        return self._embed(self.pixels.differentiable(pixels))

    @torch.no_grad()
    def embed_text(self, prompts: Sequence[str]) -> Tensor:
        """Return unit text features, [N, D]; each prompt is encoded once."""
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._text]
        if missing:
            tokenizer = self._loaded[1]
            ids = tokenizer(missing, padding="max_length", truncation=True, return_tensors="pt").input_ids
            output: Any = self.network.get_text_features(input_ids=ids.to(self.device))
            self._text |= dict(zip(missing, _unit(output.pooler_output).cpu(), strict=True))
        return torch.stack([self._text[prompt] for prompt in prompts]).to(self.device)

    def _embed(self, inputs: Tensor) -> Tensor:
        output: Any = self.network.get_image_features(pixel_values=inputs.to(self.network.dtype))
        return _unit(output.pooler_output)


def _unit(features: Tensor) -> Tensor:
    """Normalise in float32 at least: half precision would tie scores that differ."""
    return F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)
