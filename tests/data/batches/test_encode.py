"""Images become the pixels that the VAE encodes, and what encoders make of an entry depends on that entry alone."""

import numpy as np
import pytest
import torch

from alignbench.batch import Conditioning
from alignbench.configuration.compose import composed
from alignbench.crop import CropSpec
from alignbench.data.batches.encode import Encoder, fit
from alignbench.data.source import TrainingImage
from alignbench.stages.prepare import build_adapter

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


# ---- batches of one size

TEXTS = ["a", "", "a red", "a red circle", "two blue squares", "a star", "three green stars left of a red cross"]


def images_of_random_pixels(number, side):
    draws = np.random.default_rng(1).integers(0, 256, (number, side, side, 3), dtype=np.uint8)
    return [TrainingImage(str(key), pixels) for key, pixels in enumerate(draws)]


class FourAtATime:
    """A model that notes how many prompts or images each call has.

    Args:
        shift: what is added to each number for each place that it is away from the first.
    """

    resolution = 8
    device = torch.device("cpu")
    has_posterior = encodes_prompts = encodes_pixels = True
    prompts_per_call = images_per_call = 4

    def __init__(self, shift=0.0):
        self.shift, self.calls = shift, []

    def encode_prompts(self, prompts):
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        return Conditioning(self._shifted(lengths.float()[:, None, None]))

    def encode_no_prompt(self):
        return Conditioning(torch.full((1, 1, 1), -1.0))

    def encode_posterior(self, pixels):
        return self._shifted(pixels), torch.ones_like(pixels)

    def _shifted(self, rows):
        self.calls.append(len(rows))
        return rows + self.shift * torch.arange(len(rows)).reshape(-1, *(1,) * (rows.ndim - 1))


def test_encoders_are_called_with_batches_of_one_size():
    model = FourAtATime()
    encoder = Encoder(model)
    features = [entry["prompt_embeds"].item() for entry in encoder.encode_prompts(TEXTS)]
    assert features == [-1.0 if text == "" else len(text) for text in TEXTS]
    images = images_of_random_pixels(5, 8)
    for entry, image in zip(encoder.encode_images(images), images, strict=True):
        assert torch.equal(entry["mean"], fit(image, SQUARE)[0])
        assert entry["size"].tolist() == [8, 8]
    assert model.calls == [4] * 8  # two of each kind find out whether places matter


def test_where_the_place_in_a_batch_matters_all_are_encoded_alone():
    model, plain = FourAtATime(shift=1e-6), Encoder(FourAtATime())
    encoder, images = Encoder(model), images_of_random_pixels(5, 8)
    assert encoder.encode_prompts(TEXTS) == plain.encode_prompts(TEXTS)
    found = [entry["mean"] for entry in encoder.encode_images(images)]
    assert all(map(torch.equal, found, [entry["mean"] for entry in plain.encode_images(images)]))
    assert model.calls == [4, 4, *[1] * 6, 4, 4, *[1] * 5]


@pytest.mark.matrix
@pytest.mark.parametrize("name", ["flux_mini", "qwen_mini", "sd15_mini", "sd3_mini", "sdxl_mini"])
def test_an_entry_has_the_same_bits_at_every_place_and_beside_any_others(name):
    model = build_adapter(composed([f"model={name}"]).model)
    encoder = Encoder(model, "sample")
    texts = [text for text in TEXTS if text]
    images = images_of_random_pixels(model.images_per_call, model.resolution)
    assert encoder._prompts_per_call == model.prompts_per_call  # where places mattered it would be 1
    assert encoder._images_per_call((3, model.resolution, model.resolution)) == model.images_per_call == 8
    for encode, given in ((encoder.encode_prompts, texts), (encoder.encode_images, images)):
        whole = encode(given)
        for number, expected in enumerate(whole):
            turned = encode([*given[number:], *given[:number]])  # it comes first
            beside_itself = encode([given[number]])
            for found in (turned[0], beside_itself[0]):
                assert all(torch.equal(found[key], expected[key]) for key in expected)
