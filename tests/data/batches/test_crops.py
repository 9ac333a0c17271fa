"""What is cut out of training images: exact pixels, the same for both images of a pair, in every layout of a run."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from alignbench.batch import ImageBatch, PairBatch
from alignbench.context import Context
from alignbench.crop import CropSpec
from alignbench.data.batches.crops import CropPolicy
from alignbench.data.batches.encode import Encoder, collate, fit
from alignbench.data.source import ImageSample, PairSample, Picture, cut_alike
from alignbench.errors import UserError
from alignbench.models.tiny_random import tiny_adapter
from alignbench.settings.train import Train

RNG = np.random.default_rng(0)
CONTEXT = Context(step=0, seed=7, micro_batch_size=2)
RANDOM = CropPolicy(((8, 8),), "random", random_flip=True)


def picture(key, height, width):
    return Picture(key, RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))


def pixels(picture, cut):
    """What `fit` returns, as the bytes that it was made of."""
    return (fit(picture, cut)[0].permute(1, 2, 0) * 255).round().byte().numpy()


def settings(**changes):
    return OmegaConf.merge(Train.defaults(), changes)


@pytest.mark.parametrize("height", [12, 8])
@pytest.mark.parametrize("place", [(0.0, 0.0), (0.3, 0.7), (0.999, 0.5)])
@pytest.mark.parametrize("flipped", [False, True])
def test_a_picture_that_is_not_resized_is_cut_by_indexing(height, place, flipped):
    """The corner is that of the mirrored picture, as in diffusers; nine columns are left over, or five rows."""
    image = picture("a", height, 8 if height == 12 else 17)
    whole = image.pixels[:, ::-1] if flipped else image.pixels
    top, left = (int(place[0] * 5), 0) if height == 12 else (0, int(place[1] * 10))
    assert np.array_equal(pixels(image, CropSpec((8, 8), place, flipped)), whole[top : top + 8, left : left + 8])


def test_a_picture_is_resized_until_it_covers_a_bucket():
    """60 x 90 to 32 x 64: the width decides, 64 / 90; the height becomes 43, and 11 rows are cut off."""
    frame = CropSpec((32, 64)).frame(60, 90)
    assert (frame.resized, frame.corner, frame.size) == ((43, 64), (5, 0), (32, 64))
    assert frame.time_ids == (60, 90, 5, 0, 32, 64)
    assert CropSpec((32, 64), (0.99, 0.99)).frame(60, 90).corner == (11, 0)
    assert fit(picture("a", 60, 90), CropSpec((32, 64))).shape == (1, 3, 32, 64)


def test_every_corner_is_drawn_equally_often_and_half_of_all_visits_see_the_mirror_image():
    draws = [RANDOM.draw((8, 8), 0, index) for index in range(6000)]
    lefts = np.bincount([cut.frame(8, 10).corner[1] for cut in draws])
    tops = np.bincount([cut.frame(13, 8).corner[0] for cut in draws])
    assert len(lefts) == 3
    assert len(tops) == 6
    assert (abs(lefts - 2000) < 4 * 37).all()  # standard deviations of a binomial count
    assert (abs(tops - 1000) < 4 * 29).all()
    assert abs(sum(cut.flipped for cut in draws) - 3000) < 4 * 39


def test_a_draw_depends_on_seed_and_sample_alone():
    draws = [RANDOM.draw((8, 8), 0, index) for index in range(4)]
    assert draws == [RANDOM.draw((8, 8), 0, index) for index in range(4)]
    assert len({*draws, RANDOM.draw((8, 8), 1, 0)}) == 5
    assert CropPolicy.square(8).draw((8, 8), 0, 3) == CropSpec((8, 8))


def test_a_few_places_are_spread_evenly_and_all_that_are_drawn_are_known_beforehand():
    cuts = CropPolicy(((8, 8),), "random", random_flip=True, crops_per_image=4)
    known = cuts.all((8, 8))
    assert len(known) == 8
    assert {cut.place[0] for cut in known} == {1 / 2, 1 / 4, 3 / 4, 1 / 8}
    assert {round(cut.place[1], 9) for cut in known} == {round(n / 9, 9) for n in (3, 6, 1, 4)}
    assert {cuts.draw((8, 8), 0, index) for index in range(200)} == set(known)
    assert len({cut.name for cut in known}) == 8
    flips = CropPolicy(((8, 8),), random_flip=True)
    assert flips.all((8, 8)) == [CropSpec((8, 8)), CropSpec((8, 8), flipped=True)]
    assert RANDOM.are_endless
    assert not flips.are_endless


def test_winner_and_loser_are_cut_at_one_place_and_mirrored_together():
    twins = PairSample("a", picture("w", 12, 30), picture("l", 12, 30), 1.0)
    twins = PairSample("a", twins.image_w, Picture("l", 255 - twins.image_w.pixels), 1.0)
    for index in range(20):
        sample = cut_alike(twins, RANDOM.draw((12, 12), 0, index))
        winner, loser = (fit(image, image.cut) for image in (sample.image_w, sample.image_l))
        assert torch.equal(winner, fit(twins.image_w, sample.image_l.cut))
        torch.testing.assert_close(winner, 1 - loser)


@pytest.mark.parametrize("true_size", [True, False])
def test_sdxl_is_told_what_was_cut_out_or_the_size_that_it_sees(true_size):
    model = tiny_adapter("stable_diffusion_xl")
    wide, tall = picture("wide", 40, 100), picture("tall", 90, 48)
    cut = CropSpec((24, 40), (0.5, 0.9))
    items = [(0, cut_alike(PairSample("a", wide, tall, 1.0), cut))]
    encoder = Encoder(model, true_size=true_size)
    batch = collate(items, SimpleNamespace(batch_type=PairBatch, prompt_dropout=0.0), encoder, CONTEXT)
    assert batch.latents_w.shape == batch.latents_l.shape == (1, 4, 6, 10)
    # 40 x 100 becomes 24 x 60, 20 columns are left over: 0.9 * 21 = 18.9. 90 x 48 becomes 75 x 40: 0.5 * 52 = 26
    as_wide, as_tall, square = [40, 100, 0, 18, 24, 40], [90, 48, 26, 0, 24, 40], [24, 40, 0, 0, 24, 40]
    expected = [as_wide, as_tall] if true_size else [square, square]
    assert batch.conditioning_both.time_ids.tolist() == expected


def test_one_picture_cut_in_two_ways_is_remembered_as_two():
    model, image = tiny_adapter("stable_diffusion"), picture("a", 32, 60)
    method, encoder = SimpleNamespace(batch_type=ImageBatch, prompt_dropout=0.0), Encoder(model)

    def latents(cut, encoder):
        return collate([(0, cut_alike(ImageSample("a", image), cut))], method, encoder, CONTEXT).latents

    cuts = [CropSpec((32, 32)), CropSpec((32, 32), flipped=True), CropSpec((32, 32), (0.1, 0.1)), CropSpec((16, 32))]
    together = [latents(cut, encoder) for cut in cuts]
    assert all(torch.equal(one, latents(cut, Encoder(model))) for one, cut in zip(together, cuts, strict=True))
    assert not torch.equal(together[0], together[1])


def test_what_the_configuration_asks_for_is_done_and_buckets_that_do_not_fit_are_refused():
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
