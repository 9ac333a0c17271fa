"""Aspect buckets: which sizes there are, which a sample gets, and an order that wastes and repeats nothing."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from alignbench.batch import PairBatch
from alignbench.context import keyed_generator
from alignbench.data.batches.aspect_buckets import BucketedOrder, Buckets, standard_buckets
from alignbench.data.batches.crops import CropPolicy
from alignbench.data.batches.encode import Encoder
from alignbench.data.batches.feature_cache import Caches
from alignbench.data.batches.fill_cache import RequiredFeatures, prepare
from alignbench.data.batches.sampler import Mix, StepSampler
from alignbench.data.batches.stream import Stream
from alignbench.data.source import Pair, PairSource, TrainingImage
from alignbench.errors import UserError
from alignbench.models.tiny_random import tiny_adapter
from alignbench.models.weights.without_weights import drop
from alignbench.work_share import WorkShare

CPU = torch.device("cpu")
SIZES = ((24, 40), (32, 32), (40, 24))
SHAPES = [(40, 70), (70, 40), (36, 36), (64, 64)]  # of images, in turn


def buckets(counts, bundle=1):
    """Some samples of each size, in turn."""
    bucket = np.concatenate([np.full(count, number) for number, count in enumerate(counts)])
    return Buckets(SIZES[: len(counts)], np.random.default_rng(0).permutation(bucket), 0)


def steps(of, bundle, num_steps, total_batch_size=8, num_processes=1, start_step=0, seed=0, mix=None):
    """The positions of some steps, those of all processes joined."""
    ranks = [
        StepSampler(
            len(of.bucket), total_batch_size, 1, seed, rank, num_processes, start_step, mix,
            order=BucketedOrder(of, bundle, seed, mix),
        )
        for rank in range(num_processes)
    ]  # fmt: skip
    return [
        [position for samples in parts for _, position in samples]
        for parts in itertools.islice(zip(*ranks, strict=True), num_steps)
    ]


# ---- sizes


def test_the_standard_buckets_are_the_published_ones():
    """NovelAI's rule at 512 px: the largest width for each height, and the other way round, in steps of 64 px."""
    found = standard_buckets(512, 8, None)
    for size in [(256, 1024), (320, 768), (384, 640), (448, 576), (512, 512), (576, 448), (768, 320), (1024, 256)]:
        assert size in found
    for resolution, multiple in ((512, 8), (1024, 8), (1024, 16), (720, 16), (64, 8)):
        sizes = standard_buckets(resolution, multiple, None)
        assert {(width, height) for height, width in sizes} == set(sizes)
        assert all(height * width <= resolution**2 for height, width in sizes)
        assert all(side % multiple == 0 and resolution / 2 <= side <= 2 * resolution for size in sizes for side in size)
        assert (resolution, resolution) in sizes
    assert (896, 1152) in standard_buckets(1024, 8, None)  # SDXL's
    assert all(side % 80 == 0 for size in standard_buckets(720, 16, None) for side in size)
    assert max(max(size) for size in standard_buckets(64, 8, 64)) == 64


def test_a_sample_gets_the_bucket_of_the_nearest_aspect_and_a_pair_the_middle_of_its_two():
    found = Buckets._nearest(np.log([40 / 70, 70 / 40, 1.0, 1.25, 1.35]), SIZES, 1)
    assert [found.sizes[n] for n in found.bucket] == [(24, 40), (40, 24), (32, 32), (32, 32), (40, 24)]
    assert found.num_moved == 0
    wide_and_tall = [Pair("a", "40x70", "70x40", 1.0), Pair("a", "40x70", "40x70", 1.0)]
    data = MixedSizes(wide_and_tall)
    found = Buckets.of(data, data.view("pairs"), SIZES, 1)
    assert [found.size(0), found.size(1)] == [(32, 32), (24, 40)]


def test_a_bucket_that_cannot_fill_a_micro_batch_gives_its_samples_to_its_neighbour():
    aspects = np.log([40 / 24] * 3 + [1.0] * 5 + [24 / 40] * 8)
    found = Buckets._nearest(aspects, SIZES, 4)
    assert found.sizes == [(24, 40), (32, 32)]
    assert found.num_moved == 3
    assert np.bincount(found.bucket).tolist() == [8, 8]
    assert found.summary() == (
        "samples by height x width: 24x40 8, 32x32 8; 3 of them moved from buckets too small for a micro-batch"
    )
    assert Buckets._nearest(aspects, SIZES, 3).num_moved == 0
    assert len(Buckets._nearest(aspects, SIZES, 100).sizes) == 1


# ---- order


@pytest.mark.parametrize("bundle", [1, 2, 4])
def test_every_bundle_holds_one_size(bundle):
    of = buckets([5, 9, 11])
    for positions in steps(of, bundle, 30):
        assert len(positions) == 8
        sizes = of.bucket[positions].reshape(-1, bundle)
        assert (sizes == sizes[:, :1]).all()


def test_the_order_is_the_same_on_any_number_of_processes_after_a_resume_and_new_with_another_seed():
    of = buckets([5, 9, 11])
    whole = steps(of, 2, 20)
    for num_processes in (2, 4):
        assert steps(of, 2, 20, num_processes=num_processes) == whole
    assert steps(of, 2, 5, start_step=15) == whole[15:]
    assert steps(of, 2, 20, seed=1) != whole


def test_no_sample_is_dropped_and_none_is_shown_twice_before_all_others_of_its_bucket():
    of = buckets([5, 9, 11])
    shown = [position for positions in steps(of, 4, 100) for position in positions]
    visits = Counter(shown)
    for number, size in enumerate((5, 9, 11)):
        own = [visits[position] for position in np.flatnonzero(of.bucket == number)]
        assert max(own) - min(own) <= 1
        assert sum(own) == pytest.approx(800 * size / 25, abs=8)
    for number, size in enumerate((5, 9, 11)):
        in_order = [position for position in shown if of.bucket[position] == number]
        assert all(len(set(in_order[start : start + size])) == size for start in range(0, len(in_order) - size, size))


def test_bundles_of_a_bucket_are_spread_over_the_epoch():
    of = buckets([100, 100])
    order = [int(of.bucket[positions[0]]) for positions in steps(of, 4, 50, total_batch_size=4)]
    assert 10 < sum(one != other for one, other in itertools.pairwise(order)) < 40


def test_data_smaller_than_a_micro_batch_train():
    of = Buckets([(32, 32)], np.zeros(3, int), 0)
    visits = Counter(position for positions in steps(of, 8, 12) for position in positions)
    assert [visits[position] for position in range(3)] == [32, 32, 32]


def test_a_mix_of_labels_shows_each_sample_as_often_as_without_buckets():
    """Desirable: half of the first bucket, none of the second, all of the third."""
    of = buckets([8, 6, 4])
    labels = [(of.bucket[p] == 0 and p % 2 == 0) or of.bucket[p] == 2 for p in range(18)]
    wanted, total = sum(labels), 18
    visits = Counter(p for positions in steps(of, 4, 900, mix=Mix(labels, 0.7)) for p in positions)
    for position, desirable in enumerate(labels):
        expected = 7200 * (0.7 / wanted if desirable else 0.3 / (total - wanted))
        assert visits[position] == pytest.approx(expected, rel=0.02)
    with pytest.raises(UserError, match="needs images of both labels"):
        BucketedOrder(of, 4, 0, Mix([True] * 18, 0.5))


# ---- batches


class MixedSizes(PairSource):
    """Pairs of random pictures whose keys say how large they are."""

    name = "mixed"
    mixed = "desirable"
    fingerprint = "mixed"
    num_filtered = Counter()  # noqa: RUF012
    pairs = prompts = None

    def __init__(self, pairs=None, posterior="sample"):
        every = enumerate(itertools.islice(itertools.cycle(SHAPES), 12))
        own = [Pair(f"prompt {n}", f"{h}x{w} {n}w", f"{h}x{w + n % 3} {n}l", 0.8) for n, (h, w) in every]
        self.pairs = pairs or own
        self.prompts = [pair.prompt for pair in self.pairs]
        self.posterior = posterior

    def image(self, key):
        height, width = map(int, key.split()[0].split("x"))
        generator = keyed_generator(key)
        return TrainingImage(
            key, torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8).numpy()
        )


class OnPairs:
    batch_type = PairBatch
    prompt_dropout = 0.2
    desirable_share = scorer = num_draws = None
    group_size = 1


POLICY = CropPolicy(SIZES, "random", random_flip=True, crops_per_image=2, true_size=True)


def shares(
    root,
    model,
    num_steps=3,
    num_processes=1,
    start_step=0,
    micro_batch_size=2,
    crop_policy=POLICY,
    num_workers=0,
    data=None,
):
    """Each step's batches, those of all processes joined."""
    streams = [
        Stream(
            OnPairs, data or MixedSizes(), model, root, total_batch_size=8, seed=0, rank=rank,
            num_processes=num_processes, start_step=start_step, num_workers=num_workers, crop_policy=crop_policy,
            micro_batch_size=micro_batch_size,
        )
        for rank in range(num_processes)
    ]  # fmt: skip
    return [[batch for stream in streams for batch in stream.next()] for _ in range(num_steps)]


def equal(batches, others):
    def tensors(rows):
        values = vars(rows.conditioning) | vars(rows)
        return {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}

    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        one, two = tensors(batch), tensors(other)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)
    return True


@pytest.mark.parametrize("family", ["stable_diffusion_xl", "flux"])
def test_batches_hold_one_size_each_and_are_equal_in_every_layout(tmp_path, family):
    model = tiny_adapter(family)
    whole = shares(tmp_path, model)
    assert [len(step) for step in whole] == [4, 4, 4]
    found = {tuple(batch.latents_w.shape[2:]) for step in whole for batch in step}
    assert found == {(size[0] // 4, size[1] // 4) for size in SIZES}
    assert all(batch.latents_w.shape == batch.latents_l.shape for step in whole for batch in step)
    assert all(equal(a, b) for a, b in zip(shares(tmp_path, model, num_processes=2), whole, strict=True))
    assert equal(shares(tmp_path, model, 1, start_step=2)[0], whole[2])
    assert equal(shares(tmp_path, model, 1, num_workers=1)[0], whole[0])


@pytest.mark.parametrize("crop_policy", [POLICY, CropPolicy(((32, 32),), random_flip=True)], ids=["buckets", "flips"])
@pytest.mark.parametrize("family", ["stable_diffusion_xl", "flux"])
def test_batches_from_the_cache_are_those_without_it(tmp_path, family, crop_policy):
    model, data = tiny_adapter(family), MixedSizes()
    expected = shares(tmp_path / "none", model, crop_policy=crop_policy)
    caches = Caches.open(tmp_path, model, data.posterior, CPU)
    required = RequiredFeatures.of(OnPairs, data, crop_policy, micro_batch_size=2)
    assert len(required.crops) == 24 * len(crop_policy.all((32, 32)))
    caches.describe()
    encoder = Encoder(model, data.posterior, caches=caches, address=data.address)
    prepare(required, encoder, caches, WorkShare(), progress=False)
    for part in model.frozen_networks:
        drop(part)  # calling one would be noticed
    assert all(equal(a, b) for a, b in zip(shares(tmp_path, model, crop_policy=crop_policy), expected, strict=True))


def test_each_time_an_image_is_shown_it_has_another_crop_which_is_the_same_for_both_images(tmp_path):
    twins = MixedSizes([Pair("a", "40x70 same", "40x70 same", 1.0)], "mode")
    crop_policy = CropPolicy(((32, 32),), "random")
    ((batch,),) = shares(tmp_path, tiny_adapter("flux"), 1, crop_policy=crop_policy, data=twins)
    assert torch.equal(batch.latents_w, batch.latents_l)
    assert len(batch.latents_w.unique(dim=0)) > 4  # of 25 crops


def test_nothing_is_prepared_of_images_with_unlimited_crops():
    required = RequiredFeatures.of(OnPairs, MixedSizes(), CropPolicy(((32, 32),), "random"))
    assert required.has_unlimited_crops
    assert not required.crops
    assert len(required.prompts) == 13


def test_a_share_that_cannot_be_split_into_micro_batches_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"2 processes cannot split .*=8 into micro-batches of 8; choose"):
        shares(tmp_path, tiny_adapter("flux"), num_processes=2, micro_batch_size=8)
