"""Crops of training images: exact pixels, the same crop for both images of a pair and in every layout of a run."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from alignbench.batch import ImageBatch, PairBatch
from alignbench.configuration.build import conf_folder
from alignbench.context import Context
from alignbench.crop import CropSpec
from alignbench.data.batches.collate import collate
from alignbench.data.batches.crops import CropPolicy
from alignbench.data.batches.encode import Encoder, fit
from alignbench.data.source import ImageSample, PairSample, TrainingImage, with_same_crop
from alignbench.errors import UserError
from alignbench.models.tiny_random import tiny_adapter

RNG = np.random.default_rng(0)
CONTEXT = Context(step=0, seed=7, micro_batch_size=2)
RANDOM = CropPolicy(((8, 8),), "random", random_flip=True)


def image_of(key, height, width):
    return TrainingImage(key, RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))


def pixels(image, crop):
    """Return the pixels of `fit` as bytes."""
    return (fit(image, crop)[0].permute(1, 2, 0) * 255).round().byte().numpy()


def settings(**changes):
    return OmegaConf.merge(OmegaConf.load(conf_folder() / "train" / "default.yaml"), changes)


@pytest.mark.parametrize("height", [12, 8])
@pytest.mark.parametrize("offset", [(0.0, 0.0), (0.3, 0.7), (0.999, 0.5)])
@pytest.mark.parametrize("flipped", [False, True])
def test_the_crop_of_an_image_that_is_not_resized_is_a_slice_of_it(height, offset, flipped):
    """The corner lies in the mirrored image, as in diffusers; nine columns or five rows are cut off."""
    image = image_of("a", height, 8 if height == 12 else 17)
    whole = image.pixels[:, ::-1] if flipped else image.pixels
    top, left = (int(offset[0] * 5), 0) if height == 12 else (0, int(offset[1] * 10))
    assert np.array_equal(pixels(image, CropSpec((8, 8), offset, flipped)), whole[top : top + 8, left : left + 8])


def test_an_image_is_resized_until_it_covers_a_bucket():
    """60 x 90 to 32 x 64: the width decides, 64 / 90; the height becomes 43, and 11 rows are cut off."""
    box = CropSpec((32, 64)).box(60, 90)
    assert (box.resized, box.corner, box.size) == ((43, 64), (5, 0), (32, 64))
    assert box.time_ids == (60, 90, 5, 0, 32, 64)
    assert CropSpec((32, 64), (0.99, 0.99)).box(60, 90).corner == (11, 0)
    assert fit(image_of("a", 60, 90), CropSpec((32, 64))).shape == (1, 3, 32, 64)


def test_every_corner_is_drawn_equally_often_and_half_of_all_images_are_mirrored():
    draws = [RANDOM.draw((8, 8), 0, index) for index in range(6000)]
    lefts = np.bincount([crop.box(8, 10).corner[1] for crop in draws])
    tops = np.bincount([crop.box(13, 8).corner[0] for crop in draws])
    assert len(lefts) == 3
    assert len(tops) == 6
    assert (abs(lefts - 2000) < 4 * 37).all()  # standard deviations of a binomial count
    assert (abs(tops - 1000) < 4 * 29).all()
    assert abs(sum(crop.flipped for crop in draws) - 3000) < 4 * 39


def test_a_draw_depends_on_seed_and_sample_alone():
    draws = [RANDOM.draw((8, 8), 0, index) for index in range(4)]
    assert draws == [RANDOM.draw((8, 8), 0, index) for index in range(4)]
    assert len({*draws, RANDOM.draw((8, 8), 1, 0)}) == 5
    assert CropPolicy.square(8).draw((8, 8), 0, 3) == CropSpec((8, 8))


def test_a_few_crops_are_spread_evenly_and_all_of_them_are_known_beforehand():
    policy = CropPolicy(((8, 8),), "random", random_flip=True, crops_per_image=4)
    known = policy.all((8, 8))
    assert len(known) == 8
    assert {crop.offset[0] for crop in known} == {1 / 2, 1 / 4, 3 / 4, 1 / 8}
    assert {round(crop.offset[1], 9) for crop in known} == {round(n / 9, 9) for n in (3, 6, 1, 4)}
    assert {policy.draw((8, 8), 0, index) for index in range(200)} == set(known)
    assert len({crop.name for crop in known}) == 8
    flips = CropPolicy(((8, 8),), random_flip=True)
    assert flips.all((8, 8)) == [CropSpec((8, 8)), CropSpec((8, 8), flipped=True)]
    assert RANDOM.has_unlimited_crops
    assert not flips.has_unlimited_crops


def test_winner_and_loser_have_one_crop_and_are_mirrored_together():
    twins = PairSample("a", image_of("w", 12, 30), image_of("l", 12, 30), 1.0)
    twins = PairSample("a", twins.image_w, TrainingImage("l", 255 - twins.image_w.pixels), 1.0)
    for index in range(20):
        sample = with_same_crop(twins, RANDOM.draw((12, 12), 0, index))
        winner, loser = (fit(image, image.crop) for image in (sample.image_w, sample.image_l))
        assert torch.equal(winner, fit(twins.image_w, sample.image_l.crop))
        torch.testing.assert_close(winner, 1 - loser)


@pytest.mark.parametrize("true_size", [True, False])
def test_sdxl_is_given_the_crop_or_the_size_that_it_sees(true_size):
    model = tiny_adapter("stable_diffusion_xl")
    wide, tall = image_of("wide", 40, 100), image_of("tall", 90, 48)
    crop = CropSpec((24, 40), (0.5, 0.9))
    items = [(0, with_same_crop(PairSample("a", wide, tall, 1.0), crop))]
    encoder = Encoder(model, true_size=true_size)
    batch = collate(items, SimpleNamespace(batch_type=PairBatch, prompt_dropout=0.0), encoder, CONTEXT)
    assert batch.latents_w.shape == batch.latents_l.shape == (1, 4, 6, 10)
    # 40 x 100 becomes 24 x 60, 20 columns are cut off: 0.9 * 21 = 18.9. 90 x 48 becomes 75 x 40: 0.5 * 52 = 26
    as_wide, as_tall, square = [40, 100, 0, 18, 24, 40], [90, 48, 26, 0, 24, 40], [24, 40, 0, 0, 24, 40]
    expected = [as_wide, as_tall] if true_size else [square, square]
    assert batch.conditioning_both.time_ids.tolist() == expected


def test_two_crops_of_one_image_are_remembered_apart():
    model, image = tiny_adapter("stable_diffusion"), image_of("a", 32, 60)
    method, encoder = SimpleNamespace(batch_type=ImageBatch, prompt_dropout=0.0), Encoder(model)

    def latents(crop, encoder):
        return collate([(0, with_same_crop(ImageSample("a", image), crop))], method, encoder, CONTEXT).latents

    crops = [CropSpec((32, 32)), CropSpec((32, 32), flipped=True), CropSpec((32, 32), (0.1, 0.1)), CropSpec((16, 32))]
    together = [latents(crop, encoder) for crop in crops]
    assert all(torch.equal(one, latents(crop, Encoder(model))) for one, crop in zip(together, crops, strict=True))
    assert not torch.equal(together[0], together[1])


def test_the_policy_follows_the_configuration_and_buckets_that_do_not_fit_are_refused():
    model = tiny_adapter("stable_diffusion_3")
    assert CropPolicy.of(settings(), model) == CropPolicy.square(32)
    asked_for = {"crop": "random", "random_flip": True, "crops_per_image": 2, "size_conditioning": "true_size"}
    assert CropPolicy.of(settings(**asked_for), model) == CropPolicy(((32, 32),), "random", True, 2, True)
    listed = CropPolicy.of(settings(aspect_ratio_buckets=[[32, 32], [24, 40]]), model)
    assert listed.sizes == ((32, 32), (24, 40))
    assert listed.has_buckets
    assert (64, 16) in CropPolicy.of(settings(aspect_ratio_buckets="auto"), model).sizes
    with pytest.raises(UserError, match=r"aspect_ratio_buckets: a side=36 does not fit the model; .* of 8"):
        CropPolicy.of(settings(aspect_ratio_buckets=[[36, 32]]), model)
    with pytest.raises(UserError, match="has a side of 136 pixels, and the model takes 128"):
        CropPolicy.of(settings(aspect_ratio_buckets=[[136, 8]]), model)
