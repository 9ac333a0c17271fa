"""Probabilities of answers with a gradient to the pixels, for models with the preprocessing of Qwen2-VL."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from alignbench.errors import UserError
from evaluators.hpsv3 import patches_of
from evaluators.networks.clip import checkpoint_layers
from evaluators.vqa.answers import Question
from evaluators.vqa.questioner import Questioner


def answer_probabilities(questioner: Questioner, pixels: Tensor, questions: Sequence[Question]) -> Tensor:
    """Return the probability of an accepted answer to the question about each image, with a gradient.

    The pixels are resized as floats, where the model's own processor rounds to 8 bits and cuts overshoot off. What the
    network reads is the same where nothing is resized, as with Qwen3-VL for sides that are multiples of 32. For
    photographs of 512 to 1024 pixels that are resized, it differs by 0.002 to 0.004 on average and 0.1 at most, in
    units of the normalised pixels, of which a level of 8 bits is 0.015 with Qwen2-VL.

    Args:
        questioner: of a model whose processor is that of Qwen2-VL, Qwen2.5-VL or Qwen3-VL.
        pixels: [N, 3, H, W], float, 0..1.
        questions: one an image.

    Returns:
        Probabilities, [N], float32.

    Raises:
        UserError: the model reads pixels in another way.
    """
    model = questioner.model
    height, width = pixels.shape[-2:]
    blank = Image.new("RGB", (width, height))  # for the tokens of an image of this size
    inputs = model.inputs([[None, question.text] for question in questions], [[blank]] * len(questions))
    patches = qwen_patches(model.processor.image_processor, pixels, inputs.get("image_grid_thw"), model.source)
    if patches.shape != inputs["pixel_values"].shape:
        raise ValueError(f"patches are {tuple(patches.shape)}, expected {tuple(inputs['pixel_values'].shape)}")
    inputs["pixel_values"] = patches
    probabilities = model.next_logits(inputs).softmax(dim=-1)
    tokens = [questioner.tokens(question.answers) for question in questions]
    return torch.stack([row[some].sum() for row, some in zip(probabilities, tokens, strict=True)])


def checkpoint_activations(network: Any) -> None:
    """Have the layers of a model of the Qwen-VL family computed twice instead of keeping their activations, once."""
    layers = [*network.model.visual.blocks, *network.model.language_model.layers]
    if not isinstance(layers[0].forward, partial):  # as this leaves them
        checkpoint_layers(layers)


def qwen_patches(processor: Any, pixels: Tensor, grid: Tensor | None, source: str) -> Tensor:
    """Return the patches that Qwen2-VL's processor makes of images, [P, D], with a gradient.

    Args:
        processor: of images.
        pixels: [N, 3, H, W], float, 0..1.
        grid: numbers of frames, rows and columns of patches of each image, [N, 3], as the processor gives them.
        source: of the model, for messages.

    Raises:
        UserError: the processor is another.
    """
    from transformers import Qwen2VLImageProcessor

    if grid is None or not isinstance(processor, Qwen2VLImageProcessor):
        raise UserError(
            f"reward=vqascore follows a gradient through the preprocessing of Qwen2-VL, Qwen2.5-VL and Qwen3-VL alone, "
            f"and source={source} has {type(processor).__name__}; give one of these models"
        )
    size = processor.patch_size
    height, width = (int(number) * size for number in grid[0, 1:])
    if pixels.shape[-2:] != (height, width):
        pixels = F.interpolate(pixels, (height, width), mode="bicubic", antialias=True, align_corners=False)
    mean, std = (pixels.new_tensor(values).view(1, 3, 1, 1) for values in (processor.image_mean, processor.image_std))
    normalised = (pixels - mean) / std
    patches = [patches_of(one, size, processor.merge_size, processor.temporal_patch_size) for one in normalised]
    return torch.cat(patches)
