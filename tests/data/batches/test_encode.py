"""Images are resized and cropped to the pixels that the VAE encodes."""

import numpy as np
import pytest
import torch

from alignbench.crop import CropSpec
from alignbench.data.batches.encode import fit
from alignbench.data.source import TrainingImage

SQUARE = CropSpec((8, 8))
IMAGE = TrainingImage("0", np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))


def test_images_of_the_right_size_are_not_changed():
    pixels = fit(IMAGE, SQUARE)
    assert pixels.shape == (1, 3, 8, 8)
    assert torch.equal((pixels[0].permute(1, 2, 0) * 255).round().byte(), torch.from_numpy(IMAGE.pixels))


@pytest.mark.parametrize(("height", "width"), [(16, 24), (24, 16), (5, 9), (31, 17), (8, 64)])
def test_the_centre_of_the_resized_image_is_kept(height, width):
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[...] = np.linspace(0, 255, width)[None, :, None]
    pixels = fit(TrainingImage("ramp", ramp), SQUARE)
    assert pixels.shape == (1, 3, 8, 8)
    assert 0.0 <= pixels.min() <= pixels.max() <= 1.0
    # at most one pixel of the resized image off centre, if an odd number of pixels is cut off
    assert abs(float(pixels.mean()) - 0.5) < 0.51 / (width * 8 / min(height, width)) + 0.005


def test_an_image_is_smoothed_before_it_is_made_smaller():
    checks = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, -1)
    assert float(fit(TrainingImage("checks", checks), SQUARE).std()) < 0.02
