"""How pictures become inputs of the evaluators: the published pixel pipelines and their differentiable counterparts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from alignbench.evaluator import Preprocess

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # openai/CLIP, clip.py, _transform
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def square(image: Image.Image, size: int) -> Image.Image:
    """Return the picture in RGB, its short side resized to `size` by PIL's antialiased bicubic, its centre cut out."""
    image = image.convert("RGB")
    width, height = image.size
    if (width, height) == (size, size):
        return image
    short = min(width, height)
    width, height = int(size * width / short), int(size * height / short)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


def uint8_array(image: Image.Image, size: int) -> np.ndarray:
    """Return the squared picture as uint8, [size, size, 3]."""
    return np.asarray(square(image, size))


@dataclass(frozen=True, eq=False)
class ClipPixels(Preprocess):
    """CLIP's pipeline: RGB, short side to `size` by PIL bicubic, centre crop, 0..1, normalise.

    Source: transformers, CLIPImageProcessorPil; openai/CLIP, clip.py, _transform.
    """

    size: int

    @property
    def key(self) -> str:
        return f"clip_{self.size}"

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """Return normalised pixels, [N, 3, size, size], float32."""
        pixels = np.stack([uint8_array(image, self.size) for image in images])
        return self._normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255.0)

    def differentiable(self, pixels: Tensor) -> Tensor:
        """Return the same for pixels [N, 3, H, W] in 0..1 with a gradient; H = W.

        Differs from the published path where it resizes: PIL rounds to 8 bits and cuts overshoot off.
        """
        if pixels.shape[-2:] != (self.size, self.size):
            size = (self.size, self.size)
            pixels = F.interpolate(pixels, size=size, mode="bicubic", antialias=True, align_corners=False)
        return self._normalise(pixels)

    @staticmethod
    def _normalise(pixels: Tensor) -> Tensor:
        mean, std = (pixels.new_tensor(values).view(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
        return (pixels - mean) / std
