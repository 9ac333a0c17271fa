"""Pictures reach the evaluators as published, and pixels with a gradient nearly so."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms import functional as transforms
from transformers import BitImageProcessorPil, CLIPImageProcessorPil, SiglipImageProcessorPil

from alignbench.miniature.scenes import render, sample_scene
from evaluators.networks.preprocess import (
    CLIP_MEAN,
    CLIP_STD,
    ClipPixels,
    Dinov2Pixels,
    HpsPixels,
    PaddedClipPixels,
    SiglipPixels,
    rgb,
)

PIPELINES = [ClipPixels(224), HpsPixels(224, "antialias"), HpsPixels(224, "legacy_noaa"), SiglipPixels(384)]


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Return a rendered scene, enlarged and converted."""
    rng = np.random.default_rng(width * height)
    return (
        Image.fromarray(render(sample_scene(rng), rng)).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    )


def photo_like(side: int) -> Image.Image:
    """Return a picture with detail at every scale, as photographs have and rendered scenes lack."""
    rng = np.random.default_rng(side)
    layers = [
        F.interpolate(torch.from_numpy(rng.normal(size=(1, 3, n, n))), size=(side, side), mode="bicubic")[0] / n**0.5
        for n in (4, 8, 16, 32, 64, 128, side)
    ]
    detail = torch.stack(layers).sum(dim=0)
    values = ((detail - detail.mean()) / detail.std() * 0.25 + 0.5).clamp(0, 1)
    return Image.fromarray((values.permute(1, 2, 0).numpy() * 255).astype(np.uint8))


def pixels_of(images: list[Image.Image]) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.array(i.convert("RGB"))).permute(2, 0, 1) / 255.0 for i in images])


# ---- as published


@pytest.mark.parametrize("size", [(28, 28), (91, 40), (40, 91), (41, 90)])
def test_a_padded_picture_has_borders_of_clips_mean_colour(size):
    image, side = picture(*size), max(size)
    on_square = np.empty((side, side, 3), dtype=np.uint8)
    on_square[:] = [int(255 * mean) for mean in CLIP_MEAN]
    top, left = (side - size[1]) // 2, (side - size[0]) // 2
    on_square[top : top + size[1], left : left + size[0]] = np.array(image)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    expected = processor(Image.fromarray(on_square), return_tensors="pt").pixel_values
    torch.testing.assert_close(PaddedClipPixels(28)([image]), expected, atol=1e-6, rtol=0)
    unscaled = PaddedClipPixels(side)  # nothing is resized: the path with a gradient is the same
    torch.testing.assert_close(unscaled.differentiable(pixels_of([image])), unscaled([image]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK"])
@pytest.mark.parametrize("size", [(64, 64), (224, 224), (301, 187), (48, 40)])
def test_pixels_equal_those_of_the_clip_processor_of_transformers(size, mode):
    image = picture(size[0], size[1], mode)
    for side in (64, 224):
        processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
        expected = processor(image.convert("RGB"), return_tensors="pt").pixel_values
        torch.testing.assert_close(ClipPixels(side)([image]), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(224, 224), (512, 512), (301, 187), (48, 40)])
def test_pixels_equal_those_of_the_processor_that_dinov2_is_published_with(size):
    image = picture(*size)
    processor = BitImageProcessorPil(
        size={"shortest_edge": 256},
        crop_size={"height": 224, "width": 224},
        resample=Image.Resampling.BICUBIC,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    expected = processor(image, return_tensors="pt").pixel_values
    torch.testing.assert_close(Dinov2Pixels()([image]), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(384, 384), (512, 512), (301, 187)])
def test_pixels_equal_those_of_the_siglip_processor_of_transformers(size):
    image = picture(*size)
    processor = SiglipImageProcessorPil(size={"height": 384, "width": 384}, resample=Image.Resampling.BICUBIC)
    expected = processor(image, return_tensors="pt").pixel_values
    torch.testing.assert_close(SiglipPixels(384)([image]), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("resizing", ["antialias", "legacy_noaa"])
@pytest.mark.parametrize("size", [(512, 512), (301, 187), (187, 301), (100, 37)])
def test_hpsv2_resizes_the_long_side_and_adds_black_borders_before_it_normalises(size, resizing):
    image = picture(*size)
    width, height = (round(side * 224 / max(size)) for side in size)
    bicubic, antialias = transforms.InterpolationMode.BICUBIC, resizing == "antialias"
    resized = transforms.resize(transforms.to_tensor(image), [height, width], bicubic, antialias=antialias)
    expected = torch.zeros(3, 224, 224)
    top, left = (224 - height) // 2, (224 - width) // 2
    expected[:, top : top + height, left : left + width] = resized
    expected = transforms.normalize(expected, list(CLIP_MEAN), list(CLIP_STD))
    torch.testing.assert_close(HpsPixels(224, resizing)([image])[0], expected, atol=1e-6, rtol=0)


def test_a_wide_picture_is_cut_by_clip_bordered_by_hpsv2_and_squashed_by_siglip():
    red, green, blue = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    stripes = np.repeat(np.array([[red, green, blue]], dtype=np.uint8), 100, axis=0).repeat(100, axis=1)
    image = Image.fromarray(stripes)  # three times as wide as high
    middle, wide, squashed = (
        pipeline([image])[0] * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)
        for pipeline, mean, std in (
            (ClipPixels(224), CLIP_MEAN, CLIP_STD),
            (HpsPixels(224, "antialias"), CLIP_MEAN, CLIP_STD),
            (SiglipPixels(384), (0.5,) * 3, (0.5,) * 3),
        )
    )
    torch.testing.assert_close(middle[:, 112, 112], torch.tensor([0.0, 1.0, 0.0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(middle[:, 5, 5], middle[:, 218, 218], atol=0.1, rtol=0)
    assert wide[:, :70].abs().max() < 1e-6
    torch.testing.assert_close(wide[:, 112, 10], torch.tensor([1.0, 0.0, 0.0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(squashed[:, 5, 5], torch.tensor([1.0, 0.0, 0.0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(squashed[:, 378, 378], torch.tensor([0.0, 0.0, 1.0]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda pipeline: pipeline.key)
@pytest.mark.parametrize("mode", ["RGBA", "LA", "L", "P", "CMYK", "1"])
def test_every_kind_of_picture_is_read_as_its_rgb(mode, pipeline):
    image = picture(301, 187, mode)
    assert torch.equal(pipeline([image]), pipeline([image.convert("RGB")]))
    assert pipeline([image]).shape == (1, 3, pipeline.size, pipeline.size)


def test_sixteen_bits_are_scaled_to_eight():
    grey = picture(64, 64, "L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    assert deep.mode == "I;16"
    for image in (deep, deep.convert("I")):
        assert np.array_equal(np.asarray(rgb(image)), np.asarray(grey.convert("RGB")))


def test_a_picture_gives_the_same_pixels_alone_and_in_a_batch():
    images = [picture(64, 64), picture(96, 96), picture(128, 80)]
    for pipeline in PIPELINES:
        together = pipeline(images)
        for number, image in enumerate(images):
            assert torch.equal(pipeline([image])[0], together[number])


def test_only_equal_preprocessings_are_shared():
    assert {ClipPixels(64): 1} == {ClipPixels(64): 1}
    assert len({ClipPixels(64), ClipPixels(224), *PIPELINES}) == 5


# ---- with a gradient


@pytest.mark.parametrize(("side", "mean", "largest"), [(64, 1e-7, 2e-6), (128, 0.002, 0.03), (512, 0.002, 0.03)])
def test_the_differentiable_pixels_differ_from_the_published_ones_by_rounding_and_overshoot(side, mean, largest):
    images = [picture(side, side), picture(side, side, "L")]
    difference = (ClipPixels(64).differentiable(pixels_of(images)) - ClipPixels(64)(images)).abs()
    assert difference.mean() < mean
    assert difference.max() < largest


@pytest.mark.parametrize("size", [(512, 512), (640, 384), (384, 640)])
def test_the_differentiable_pixels_keep_the_geometry_of_the_published_ones(size):
    for pipeline in (ClipPixels(224), SiglipPixels(384)):
        difference = (pipeline.differentiable(pixels_of([picture(*size)])) - pipeline([picture(*size)])).abs()
        assert difference.mean() < 0.003
        assert difference.max() < 0.12
    hps = HpsPixels(224, "antialias")
    torch.testing.assert_close(hps.differentiable(pixels_of([picture(*size)])), hps([picture(*size)]))


def test_pixels_without_antialiasing_are_far_off_and_cannot_be_trained_on():
    image = photo_like(1024)
    off = (HpsPixels(224, "legacy_noaa")([image]) - HpsPixels(224, "antialias")([image])).abs()
    assert off.mean() > 0.02
    with pytest.raises(TypeError, match="pixels resized by legacy_noaa cannot be trained on; use preprocess=antialias"):
        HpsPixels(224, "legacy_noaa").differentiable(pixels_of([image]))


@pytest.mark.parametrize("pipeline", [ClipPixels(8), HpsPixels(8, "antialias"), SiglipPixels(8)], ids=lambda p: p.key)
def test_the_gradient_of_the_pixels_is_exact(pipeline):
    pixels = torch.rand(1, 3, 20, 13, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(pipeline.differentiable, pixels)
