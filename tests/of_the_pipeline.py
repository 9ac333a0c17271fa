"""What a family's own pipeline makes of prompts and noise, in the layouts of this program."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignbench.models.adapter import ModelAdapter


def latents_of(model: ModelAdapter, prompts: list[str], noise: Tensor, **arguments: Any) -> Tensor:
    """Return latents, [B, C, h, w]."""
    made = _called(model, prompts, noise, output_type="latent", **arguments)
    return torch.cat([model.unpack(packed, noise.shape[-2:]) for packed in made])


def images_of(model: ModelAdapter, prompts: list[str], noise: Tensor, **arguments: Any) -> np.ndarray:
    """Return images, [B, H, W, 3] in 0..1: of a video its only frame, and on white what is transparent."""
    images = np.concatenate(_called(model, prompts, noise, output_type="np", **arguments))
    if images.ndim == 5:
        images = images.squeeze(1)
    colours, opacity = images[..., :3], images[..., 3:]
    return opacity * colours + (1 - opacity) if opacity.size else colours


def levels_of(model: ModelAdapter, prompts: list[str], noise: Tensor, **arguments: Any) -> np.ndarray:
    """Return images as files have them, [B, H, W, 3] in 0..255."""
    return (images_of(model, prompts, noise, **arguments) * 255).round().astype(np.uint8)


def _called(model: ModelAdapter, prompts: list[str], noise: Tensor, **arguments: Any) -> list[Any]:
    """Return what the pipeline makes in each call: of all prompts, or of one where it mixes them.

    Args:
        arguments: lists have one entry for each prompt.
    """
    size = 1 if model.samples_alone else len(prompts)
    height, width = (side * model.latent_factor for side in noise.shape[-2:])
    made = []
    for rows in (slice(start, start + size) for start in range(0, len(prompts), size)):
        of_rows = {key: value[rows] if isinstance(value, list) else value for key, value in arguments.items()}
        call = {"prompt": list(prompts[rows]), "latents": model.pack(noise[rows])}
        call |= model.size_arguments(height, width)
        made.append(model.pipeline(**call, **of_rows, return_dict=False)[0])
    return made
