"""Pictures reach the evaluators as published, and pixels with a gradient nearly so."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from alignbench.miniature.scenes import render, sample_scene
from evaluators.preprocess import ClipPixels


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Return a rendered scene, enlarged and converted."""
    rng = np.random.default_rng(width * height)
    return (
        Image.fromarray(render(sample_scene(rng), rng)).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    )


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
@pytest.mark.parametrize("size", [(64, 64), (224, 224), (301, 187), (48, 40)])
def test_pixels_equal_those_of_the_clip_processor_of_transformers(size, mode):
    image = picture(size[0], size[1], mode)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    expected = processor(image.convert("RGB"), return_tensors="pt").pixel_values
    torch.testing.assert_close(ClipPixels(64)([image]), expected, atol=1e-6, rtol=0)


def test_a_picture_gives_the_same_pixels_alone_and_in_a_batch():
    images = [picture(64, 64), picture(96, 96), picture(128, 128)]
    together = ClipPixels(64)(images)
    for number, image in enumerate(images):
        assert torch.equal(ClipPixels(64)([image])[0], together[number])


def test_only_equal_preprocessings_are_shared():
    assert {ClipPixels(64): 1} == {ClipPixels(64): 1}
    assert ClipPixels(64) != ClipPixels(224)


@pytest.mark.parametrize(("side", "mean", "largest"), [(64, 1e-7, 2e-6), (128, 0.002, 0.03), (512, 0.002, 0.03)])
def test_the_differentiable_pixels_differ_from_the_published_ones_by_rounding_and_overshoot(side, mean, largest):
    images = [picture(side, side), picture(side, side, "L")]
    pixels = torch.stack([torch.from_numpy(np.array(i.convert("RGB"))).permute(2, 0, 1) / 255.0 for i in images])
    difference = (ClipPixels(64).differentiable(pixels) - ClipPixels(64)(images)).abs()
    assert difference.mean() < mean
    assert difference.max() < largest
