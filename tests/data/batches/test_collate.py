"""Batches of each kind: images, prompts, labels, scores and sizes, the same in any split of the batch."""

from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from alignbench.batch import Conditioning, GeneratedPairBatch, ImageBatch, LabelledBatch, PairBatch, PromptBatch
from alignbench.context import Context
from alignbench.crop import CropSpec
from alignbench.data.batches.collate import collate
from alignbench.data.batches.encode import Encoder, fit
from alignbench.data.source import (
    GeneratedPairSample,
    ImageSample,
    LabelledSample,
    PairSample,
    PromptSample,
    TrainingImage,
)
from alignbench.diffusion.initial_noise import InitialNoise, initial_noise
from alignbench.errors import UserError
from alignbench.models.tiny_random import tiny_adapter

RNG = np.random.default_rng(0)
CONTEXT = Context(step=0, seed=7, micro_batch_size=2)
SQUARE = CropSpec((8, 8))


class FakeModel:
    """A model whose features tell prompts apart, and whose latents are the pixels, plus a draw if there is one."""

    resolution = 8
    device = torch.device("cpu")
    has_posterior = True

    def __init__(self):
        self.num_prompts = self.num_images = 0

    def encode_prompts(self, prompts):
        self.num_prompts += len(prompts)
        rows = [torch.tensor([[len(prompt), sum(map(ord, prompt))]], dtype=torch.float32) for prompt in prompts]
        return Conditioning(torch.stack(rows), torch.stack([row[0] for row in rows]))

    def encode_no_prompt(self):
        return self.encode_prompts([""])

    encodes_prompts = encodes_pixels = True
    prompts_per_call = images_per_call = 1

    def encode_posterior(self, pixels):
        self.num_images += len(pixels)
        return pixels, torch.ones_like(pixels)

    def latents_of(self, mean, std=None, noise=None):
        return mean if noise is None else mean + std * noise


def method(batch_type, prompt_dropout=0.0):
    return SimpleNamespace(batch_type=batch_type, prompt_dropout=prompt_dropout)


def image_of(key, height=8, width=8):
    return TrainingImage(key, RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))


IMAGES = [image_of(str(number)) for number in range(8)]
PAIRS = [PairSample(f"prompt {i}", IMAGES[2 * i], IMAGES[2 * i + 1], 0.6 + 0.1 * i) for i in range(4)]
ITEMS = list(enumerate(PAIRS, start=100))


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
    images = collate([(3, ImageSample("a", IMAGES[0]))], method(ImageBatch), encoder, CONTEXT)
    labels = collate([(3, LabelledSample("a", IMAGES[0], False))], method(LabelledBatch), encoder, CONTEXT)
    assert [type(batch) for batch in (prompts, images, labels)] == [PromptBatch, ImageBatch, LabelledBatch]
    assert labels.desirable.tolist() == [False]
    assert torch.equal(images.latents, labels.latents)


def test_a_batch_of_generated_pairs_holds_the_noise_of_each_image_beside_it():
    noises = InitialNoise("p", 0, 7, "per_prompt"), InitialNoise("p", 3, 7, "per_prompt")
    items = [(100, GeneratedPairSample("p", IMAGES[0], IMAGES[1], 1.0, *noises))]
    encoder = Encoder(FakeModel())
    batch = collate(items, method(GeneratedPairBatch), encoder, CONTEXT)
    plain = collate(items, method(PairBatch), encoder, CONTEXT)
    assert isinstance(batch, GeneratedPairBatch)
    assert [torch.equal(getattr(batch, name), getattr(plain, name)) for name in ("latents_w", "latents_l")] == [
        True
    ] * 2
    shape = batch.latents_w.shape[1:]
    assert torch.equal(batch.noise_w[0], initial_noise("p", 0, 7, shape))
    assert torch.equal(batch.noise_l[0], initial_noise("p", 3, 7, shape))


def test_a_generated_image_that_would_be_resized_is_refused():
    noise = InitialNoise("p", 0, 0, "per_prompt")
    items = [(0, GeneratedPairSample("p", IMAGES[0], image_of("wide", 8, 16), 1.0, noise, noise))]
    with pytest.raises(UserError, match=r"wide has 16x8 pixels and would be trained at model\.resolution=8"):
        collate(items, method(GeneratedPairBatch), Encoder(FakeModel()), CONTEXT)


def test_conditioning_holds_the_size_of_an_image_if_asked_for_and_that_of_the_model_for_prompts_alone():
    model = tiny_adapter("stable_diffusion_xl")  # 32 pixels a side
    wide, tall = image_of("wide", 40, 80), image_of("tall", 96, 48)
    items = [(0, PairSample("a", wide, tall, 1.0)), (1, PairSample("b", tall, tall, 1.0))]
    as_wide, as_tall, square = [40, 80, 0, 16, 32, 32], [96, 48, 16, 0, 32, 32], [32, 32, 0, 0, 32, 32]
    sized, plain = Encoder(model, true_size=True), Encoder(model)

    batch = collate(items, method(PairBatch), sized, CONTEXT)
    assert batch.conditioning_both.time_ids.tolist() == [as_wide, as_tall, as_tall, as_tall]
    square_only = collate(items, method(PairBatch), plain, CONTEXT)
    assert square_only.conditioning_both.time_ids.tolist() == [square] * 4
    assert torch.equal(batch.conditioning.prompt_embeds, square_only.conditioning.prompt_embeds)

    single = collate([(0, ImageSample("a", wide))], method(ImageBatch), sized, CONTEXT)
    labelled = collate([(0, LabelledSample("a", tall, False))], method(LabelledBatch), sized, CONTEXT)
    alone = collate([(0, PromptSample("a"))], method(PromptBatch), sized, CONTEXT)
    found = [one.conditioning.time_ids.tolist() for one in (single, labelled, alone)]
    assert found == [[as_wide], [as_tall], [square]]


@pytest.mark.parametrize("posterior", ["mode", "sample"])
def test_a_sample_is_encoded_alike_whatever_the_rest_of_the_batch(posterior):
    whole = collate(ITEMS, method(PairBatch, 0.5), Encoder(FakeModel(), posterior), CONTEXT)
    for size in (1, 2):
        encoder = Encoder(FakeModel(), posterior)
        parts = [collate(ITEMS[i : i + size], method(PairBatch, 0.5), encoder, CONTEXT) for i in range(0, 4, size)]
        assert all(equal(part, whole.rows(i * size, (i + 1) * size)) for i, part in enumerate(parts))


def test_prompt_dropout_applies_to_whole_samples_as_often_as_asked():
    model = FakeModel()
    items = [(index, PromptSample("a prompt")) for index in range(10_000)]
    batch = collate(items, method(PromptBatch, 0.2), Encoder(model), CONTEXT)
    blank = batch.conditioning.prompt_embeds[:, 0, 0] == 0
    assert abs(blank.double().mean() - 0.2) < 3 * (0.2 * 0.8 / 10_000) ** 0.5
    assert torch.equal(blank, batch.conditioning.pooled_prompt_embeds[:, 0] == 0)
    assert set(batch.prompts) == {"a prompt"}
    assert model.num_prompts == 2  # the text and the empty prompt, each once


@pytest.mark.parametrize(("prompt_dropout", "share"), [(0.0, 0.0), (1.0, 1.0)])
def test_prompt_dropout_of_zero_and_one_is_exact(prompt_dropout, share):
    items = [(index, PromptSample("a prompt")) for index in range(200)]
    batch = collate(items, method(PromptBatch, prompt_dropout), Encoder(FakeModel()), CONTEXT)
    assert (batch.conditioning.prompt_embeds[:, 0, 0] == 0).double().mean() == share


def test_both_images_of_a_pair_share_conditioning_and_posterior_draw():
    twins = [(5, PairSample("a", IMAGES[0], IMAGES[0], 1.0))]
    batch = collate(twins, method(PairBatch, 0.5), Encoder(FakeModel(), "sample"), CONTEXT)
    assert len(batch.conditioning) == 1
    assert torch.equal(batch.latents_w, batch.latents_l)
    assert not torch.equal(batch.latents_w, fit(IMAGES[0], SQUARE))


def test_a_sampled_posterior_is_drawn_anew_each_time_and_repeated_after_a_resume():
    def latents(index, encoder):
        return collate([(index, ImageSample("a", IMAGES[0]))], method(ImageBatch), encoder, CONTEXT).latents

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


def test_the_memory_is_bounded_and_the_least_recently_used_images_are_removed():
    model = FakeModel()
    encoder = Encoder(model, max_bytes=2 * (8 * 8 * 3 * 4 + 8))  # two images and their sizes
    a, b, c = (ImageSample("a", image) for image in IMAGES[:3])
    for sample in (a, b, a, c):  # c pushes b out
        collate([(0, sample)], method(ImageBatch), encoder, CONTEXT)
    assert model.num_images == 3
    collate([(0, a)], method(ImageBatch), encoder, CONTEXT)
    assert model.num_images == 3
    collate([(0, b)], method(ImageBatch), encoder, CONTEXT)
    assert model.num_images == 4


def test_pairs_carry_the_scores_of_their_images_where_there_are_some():
    scores = {(pair.prompt, image.key): float(image.key) for pair in PAIRS for image in (pair.image_w, pair.image_l)}
    batch = collate(ITEMS, method(PairBatch), Encoder(FakeModel()), CONTEXT, scores)
    assert batch.score_w.tolist() == [0.0, 2.0, 4.0, 6.0]
    assert batch.score_l.tolist() == [1.0, 3.0, 5.0, 7.0]
    assert batch.rows(1, 3).score_w.tolist() == [2.0, 4.0]
    assert collate(ITEMS, method(PairBatch), Encoder(FakeModel()), CONTEXT).score_w is None
