"""A CLIP reward as published scripts call it: text features anew with every image, pictures by PIL."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from evaluators.clip_reward import ClipReward


class PlainReward:
    """The network, tokenizer and pixel pipeline of a CLIP reward."""

    def __init__(self, reward: ClipReward) -> None:
        self.reward = reward

    @torch.no_grad()
    def text(self, prompts: Sequence[str]) -> Tensor:
        """Return unit text features, [B, D]."""
        output: Any = self.reward.network.get_text_features(input_ids=self.reward.tokenize(prompts))
        return F.normalize(output.pooler_output, dim=-1)

    def image(self, pixels: Tensor) -> Tensor:
        """Return unit image features of pixels in 0..1, [B, D], with a gradient."""
        return self._features(self.reward.preprocess.differentiable(pixels))

    def score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the score of each image, [B], with a gradient."""
        return self.reward.scale * (self.image(pixels) * self.text(prompts)).sum(dim=-1)

    @torch.no_grad()
    def score_pictures(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the score of each image as a picture of 8 bits a channel, [B]."""
        levels = (pixels * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
        features = self._features(self.reward.preprocess([Image.fromarray(picture) for picture in levels]))
        return self.reward.scale * (features * self.text(prompts)).sum(dim=-1)

    def _features(self, inputs: Tensor) -> Tensor:
        output: Any = self.reward.network.get_image_features(pixel_values=inputs)
        return F.normalize(output.pooler_output, dim=-1)
