import itertools
from collections import Counter
from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from alignbench.batch import Conditioning, ImageBatch, LabelledBatch, PairBatch, PromptBatch
from alignbench.context import Context
from alignbench.crop import CropSpec
from alignbench.data.batches.encode import Encoder, collate, fit
from alignbench.data.batches.sampler import Mix, StepSampler
from alignbench.data.source import ImageSample, LabelledSample, PairSample, TrainingImage, PromptSample
from alignbench.errors import UserError
from alignbench.models.tiny_random import tiny_adapter

RNG = np.random.default_rng(0)
CONTEXT = Context(step=0, seed=7, micro_batch_size=2)
SQUARE = CropSpec((8, 8))


class FakeModel:
    """Features that name their prompt, latents that are the pixels (plus a draw, if asked for)."""

    resolution = 8
    device = torch.device("cpu")

    def __init__(self):
        self.num_prompts = self.num_images = 0

    def encode_prompts(self, prompts):
        self.num_prompts += len(prompts)
        rows = [torch.tensor([[len(prompt), sum(map(ord, prompt))]], dtype=torch.float32) for prompt in prompts]
        return Conditioning(torch.stack(rows), torch.stack([row[0] for row in rows]))

    encodes_prompts = encodes_pixels = True

    def encode_posterior(self, pixels):
        self.num_images += len(pixels)
        return pixels, torch.ones_like(pixels)

    def latents_of(self, mean, std=None, noise=None):
        return mean if noise is None else mean + std * noise


def method(batch_type, prompt_dropout=0.0):
    return SimpleNamespace(batch_type=batch_type, prompt_dropout=prompt_dropout)


def picture(key, height=8, width=8):
    return TrainingImage(key, RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))


PICTURES = [picture(str(number)) for number in range(8)]
PAIRS = [PairSample(f"prompt {i}", PICTURES[2 * i], PICTURES[2 * i + 1], 0.6 + 0.1 * i) for i in range(4)]
ITEMS = list(enumerate(PAIRS, start=100))


def sampler(size=10, total_batch_size=8, group_size=1, seed=0, rank=0, num_processes=1, start_step=0, mix=None):
    return StepSampler(size, total_batch_size, group_size, seed, rank, num_processes, start_step, mix)


def first_steps(num_processes, num_steps=5, **settings):
    """The places of the first steps, those of all processes joined."""
    ranks = [sampler(rank=rank, num_processes=num_processes, **settings) for rank in range(num_processes)]
    return [list(itertools.chain(*parts)) for parts in itertools.islice(zip(*ranks, strict=True), num_steps)]


def equal(batch, other):
    """Whether two batches agree to the last bit."""
    pairs = [(getattr(batch, field.name), getattr(other, field.name)) for field in fields(batch)]
    return all(
        torch.equal(a.prompt_embeds, b.prompt_embeds)
        if isinstance(a, Conditioning)
        else torch.equal(a, b)
        if isinstance(a, torch.Tensor)
        else a == b
        for a, b in pairs
    )


# ---- order


@pytest.mark.parametrize("num_processes", [2, 4])
def test_the_stream_is_the_same_on_any_number_of_processes(num_processes):
    assert first_steps(num_processes) == first_steps(1)


def test_a_resumed_stream_goes_on_where_it_was():
    whole = first_steps(2)
    assert first_steps(2, num_steps=2, start_step=3) == whole[3:]


def test_global_indices_count_on_through_the_run():
    places = itertools.chain(*first_steps(1))
    assert [index for index, _ in places] == list(range(40))


def test_each_epoch_shows_every_sample_once_in_a_new_order():
    positions = [position for _, position in itertools.chain(*first_steps(1))]
    epochs = [positions[start : start + 10] for start in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_the_order_depends_on_the_seed():
    assert first_steps(1, seed=0) != first_steps(1, seed=1)


def test_a_group_of_samples_is_at_one_position_and_on_one_process():
    for places in itertools.islice(sampler(group_size=4, num_processes=2, rank=1), 5):
        assert len({position for _, position in places}) == 1
    positions = [position for _, position in itertools.chain(*first_steps(2, group_size=4))][::4]
    assert sorted(positions) == list(range(10))


def test_an_uneven_split_is_refused():
    with pytest.raises(UserError, match=r"train.total_batch_size=8 cannot be split evenly over 3 processes; .* of 3"):
        sampler(num_processes=3)
    with pytest.raises(UserError, match="over 2 processes in groups of 3; choose a multiple of 6"):
        sampler(num_processes=2, group_size=3)


def test_empty_data_are_refused():
    with pytest.raises(UserError, match="empty"):
        sampler(size=0)


# ---- a mix of labels: positions 0, 1 and 2 of 10 are desirable

MIX = Mix([True] * 3 + [False] * 7, share=0.8)


@pytest.mark.parametrize("share", [0.8, 0.5, 0.3, 0.05])
def test_every_step_has_its_share_of_desirable_samples(share):
    steps = first_steps(1, num_steps=200, mix=Mix(MIX.desirable, share))
    counts = [sum(position < 3 for _, position in places) for places in steps]
    assert all(abs(count - 8 * share) < 1 for count in counts)
    assert sum(counts) == pytest.approx(200 * 8 * share, abs=1)


def test_the_places_of_desirable_samples_within_a_step_are_drawn():
    steps = first_steps(1, num_steps=50, mix=MIX)
    patterns = {tuple(position < 3 for _, position in places) for places in steps}
    assert len(patterns) > 10


def test_a_sample_is_visited_as_often_as_the_published_weights_say_and_never_once_more_than_another_of_its_label():
    """Pick-a-Pic: 237530 desirable and 690538 undesirable images, 0.8 desirable: 3.1257 and 0.26879 visits an epoch."""
    desirable, undesirable = 237530 / 928068, 690538 / 928068
    assert 0.8 / desirable == pytest.approx(3.1257, abs=1e-4)
    assert 0.2 / undesirable == pytest.approx(0.26879, abs=1e-5)
    visits = Counter(position for places in first_steps(1, num_steps=100, mix=MIX) for _, position in places)
    assert [visits[position] for position in range(10)] == pytest.approx(
        [800 * 0.8 / 3] * 3 + [800 * 0.2 / 7] * 7, abs=1
    )


@pytest.mark.parametrize("num_processes", [2, 4])
def test_a_mixed_stream_is_the_same_on_any_number_of_processes_and_after_a_resume(num_processes):
    whole = first_steps(1, mix=MIX)
    assert first_steps(num_processes, mix=MIX) == whole
    assert first_steps(num_processes, num_steps=2, start_step=3, mix=MIX) == whole[3:]
    assert first_steps(1, seed=1, mix=MIX) != whole


def test_a_mix_of_one_label_is_refused():
    with pytest.raises(
        UserError, match=r"desirable_share=0.8 needs images of both labels, .* 10 desirable and 0 undes"
    ):
        sampler(mix=Mix([True] * 10, 0.8))


# ---- batches


def test_a_batch_of_pairs_holds_both_images_their_prompt_and_the_soft_label():
    batch = collate(ITEMS, method(PairBatch), Encoder(FakeModel()), CONTEXT)
    assert isinstance(batch, PairBatch)
    assert batch.index.tolist() == [100, 101, 102, 103]
    assert batch.prompts == [pair.prompt for pair in PAIRS]
    assert torch.equal(batch.latents_w, torch.cat([fit(pair.image_w, SQUARE) for pair in PAIRS]))
    assert torch.equal(batch.latents_l, torch.cat([fit(pair.image_l, SQUARE) for pair in PAIRS]))
    assert batch.probability_w.tolist() == pytest.approx([0.6, 0.7, 0.8, 0.9])
    assert batch.probability_w.dtype == torch.float32
    assert batch.conditioning.pooled_prompt_embeds is not None
    assert batch.conditioning.time_ids is None


def test_each_kind_of_batch_is_made_from_its_samples():
    encoder = Encoder(FakeModel())
    prompts = collate([(3, PromptSample("a"))], method(PromptBatch), encoder, CONTEXT)
    images = collate([(3, ImageSample("a", PICTURES[0]))], method(ImageBatch), encoder, CONTEXT)
    labels = collate([(3, LabelledSample("a", PICTURES[0], False))], method(LabelledBatch), encoder, CONTEXT)
    assert [type(batch) for batch in (prompts, images, labels)] == [PromptBatch, ImageBatch, LabelledBatch]
    assert labels.desirable.tolist() == [False]
    assert torch.equal(images.latents, labels.latents)


def test_images_are_told_their_own_size_where_that_is_asked_for_and_prompts_alone_never_are():
    model = tiny_adapter("stable_diffusion_xl")  # 32 pixels a side
    wide, tall = picture("wide", 40, 80), picture("tall", 96, 48)
    items = [(0, PairSample("a", wide, tall, 1.0)), (1, PairSample("b", tall, tall, 1.0))]
    as_wide, as_tall, square = [40, 80, 0, 16, 32, 32], [96, 48, 16, 0, 32, 32], [32, 32, 0, 0, 32, 32]
    sized, plain = Encoder(model, true_size=True), Encoder(model)

    batch = collate(items, method(PairBatch), sized, CONTEXT)
    assert batch.conditioning_both.time_ids.tolist() == [as_wide, as_tall, as_tall, as_tall]
    told = collate(items, method(PairBatch), plain, CONTEXT)
    assert told.conditioning_both.time_ids.tolist() == [square] * 4
    assert torch.equal(batch.conditioning.prompt_embeds, told.conditioning.prompt_embeds)

    single = collate([(0, ImageSample("a", wide))], method(ImageBatch), sized, CONTEXT)
    labelled = collate([(0, LabelledSample("a", tall, False))], method(LabelledBatch), sized, CONTEXT)
    alone = collate([(0, PromptSample("a"))], method(PromptBatch), sized, CONTEXT)
    found = [one.conditioning.time_ids.tolist() for one in (single, labelled, alone)]
    assert found == [[as_wide], [as_tall], [square]]


@pytest.mark.parametrize("posterior", ["mode", "sample"])
def test_a_sample_is_encoded_alike_whatever_is_in_the_batch_beside_it(posterior):
    whole = collate(ITEMS, method(PairBatch, 0.5), Encoder(FakeModel(), posterior), CONTEXT)
    for size in (1, 2):
        encoder = Encoder(FakeModel(), posterior)
        parts = [collate(ITEMS[i : i + size], method(PairBatch, 0.5), encoder, CONTEXT) for i in range(0, 4, size)]
        assert all(equal(part, whole.rows(i * size, (i + 1) * size)) for i, part in enumerate(parts))


def test_prompt_dropout_strikes_whole_samples_as_often_as_asked():
    model = FakeModel()
    items = [(index, PromptSample("a prompt")) for index in range(10_000)]
    batch = collate(items, method(PromptBatch, 0.2), Encoder(model), CONTEXT)
    dropped = batch.conditioning.prompt_embeds[:, 0, 0] == 0
    assert abs(dropped.double().mean() - 0.2) < 3 * (0.2 * 0.8 / 10_000) ** 0.5
    assert torch.equal(dropped, batch.conditioning.pooled_prompt_embeds[:, 0] == 0)
    assert set(batch.prompts) == {"a prompt"}
    assert model.num_prompts == 2  # the text and the empty prompt, each once


@pytest.mark.parametrize(("prompt_dropout", "share"), [(0.0, 0.0), (1.0, 1.0)])
def test_prompt_dropout_of_zero_and_one_is_exact(prompt_dropout, share):
    items = [(index, PromptSample("a prompt")) for index in range(200)]
    batch = collate(items, method(PromptBatch, prompt_dropout), Encoder(FakeModel()), CONTEXT)
    assert (batch.conditioning.prompt_embeds[:, 0, 0] == 0).double().mean() == share


def test_both_images_of_a_pair_share_conditioning_and_posterior_draw():
    twins = [(5, PairSample("a", PICTURES[0], PICTURES[0], 1.0))]
    batch = collate(twins, method(PairBatch, 0.5), Encoder(FakeModel(), "sample"), CONTEXT)
    assert len(batch.conditioning) == 1
    assert torch.equal(batch.latents_w, batch.latents_l)
    assert not torch.equal(batch.latents_w, fit(PICTURES[0], SQUARE))


def test_a_sampled_posterior_is_drawn_anew_at_each_visit_and_repeated_after_a_resume():
    def latents(index, encoder):
        return collate([(index, ImageSample("a", PICTURES[0]))], method(ImageBatch), encoder, CONTEXT).latents

    encoder = Encoder(FakeModel(), "sample")
    first, second = latents(0, encoder), latents(1, encoder)
    assert not torch.equal(first, second)
    assert torch.equal(second, latents(1, Encoder(FakeModel(), "sample")))


def test_prompts_and_modes_are_encoded_once():
    model = FakeModel()
    encoder = Encoder(model, "mode")
    for _ in range(3):
        collate(ITEMS, method(PairBatch), encoder, CONTEXT)
    assert (model.num_prompts, model.num_images) == (4, 8)


def test_the_memory_is_bounded_and_forgets_what_was_not_used_for_longest():
    model = FakeModel()
    encoder = Encoder(model, max_bytes=2 * (8 * 8 * 3 * 4 + 8))  # two images and their sizes
    a, b, c = (ImageSample("a", picture) for picture in PICTURES[:3])
    for sample in (a, b, a, c):  # c pushes b out
        collate([(0, sample)], method(ImageBatch), encoder, CONTEXT)
    assert model.num_images == 3
    collate([(0, a)], method(ImageBatch), encoder, CONTEXT)
    assert model.num_images == 3
    collate([(0, b)], method(ImageBatch), encoder, CONTEXT)
    assert model.num_images == 4


# ---- pixels


def test_pictures_of_the_right_size_are_not_touched():
    pixels = fit(PICTURES[0], SQUARE)
    assert pixels.shape == (1, 3, 8, 8)
    assert torch.equal((pixels[0].permute(1, 2, 0) * 255).round().byte(), torch.from_numpy(PICTURES[0].pixels))


@pytest.mark.parametrize(("height", "width"), [(16, 24), (24, 16), (5, 9), (31, 17), (8, 64)])
def test_the_centre_of_the_resized_picture_is_kept(height, width):
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[...] = np.linspace(0, 255, width)[None, :, None]
    pixels = fit(TrainingImage("ramp", ramp), SQUARE)
    assert pixels.shape == (1, 3, 8, 8)
    assert 0.0 <= pixels.min() <= pixels.max() <= 1.0
    # at most one pixel of the resized picture off centre, when an odd number is cut
    assert abs(float(pixels.mean()) - 0.5) < 0.51 / (width * 8 / min(height, width)) + 0.005


def test_a_picture_is_smoothed_before_it_is_made_smaller():
    checks = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, -1)
    assert float(fit(TrainingImage("checks", checks), SQUARE).std()) < 0.02


def test_pairs_carry_the_scores_of_their_images_where_there_are_some():
    scores = {(pair.prompt, image.key): float(image.key) for pair in PAIRS for image in (pair.image_w, pair.image_l)}
    batch = collate(ITEMS, method(PairBatch), Encoder(FakeModel()), CONTEXT, scores)
    assert batch.score_w.tolist() == [0.0, 2.0, 4.0, 6.0]
    assert batch.score_l.tolist() == [1.0, 3.0, 5.0, 7.0]
    assert batch.rows(1, 3).score_w.tolist() == [2.0, 4.0]
    assert collate(ITEMS, method(PairBatch), Encoder(FakeModel()), CONTEXT).score_w is None
