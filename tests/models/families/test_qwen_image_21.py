"""Qwen-Image 2.1: prompts without padding, pictures with opacity, and steps that come with the weights."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import distributed

from alignbench.batch import Conditioning
from alignbench.errors import UserError
from alignbench.generation.pipeline_sampler import Sampler
from alignbench.models.families.qwen_image_21 import rows_of_one_length
from alignbench.models.tiny_random import RESOLUTION, tiny_adapter
from alignbench.models.weights.skeleton import build_pipeline
from alignbench.training.parallel import join
from tests.processes import FSDP2, together

PROMPTS = ["a red circle", "", "a far longer caption of a blue square"]
KEYS = [("p0", 0), ("p1", 0), ("p2", 0)]


@pytest.fixture
def model():
    return tiny_adapter("qwen_image_21")


def noise_for(model, num=3):
    return torch.randn(num, *model.latent_shape, generator=torch.Generator().manual_seed(0))


def sampled(model, noise, prompts=PROMPTS):
    return model.sample(noise, model.encode_prompts(prompts), model.noise_levels(3)).latents


# ---- prompts


def test_padding_would_move_the_image_and_is_never_shown_to_the_network(model):
    noise, timesteps = noise_for(model, 1), torch.tensor([500.0])
    row = model.encode_prompts(["a red circle"])
    padded = Conditioning.of_rows([row.prompt_embeds[0], row.prompt_embeds.new_zeros(80, 16)]).rows(0, 1)
    seen = Conditioning(padded.prompt_embeds)  # as if padding were of the prompt
    with torch.no_grad():
        alone, beside, moved = (model.predict(noise, timesteps, one) for one in (row, padded, seen))
    assert padded.prompt_embeds.shape[1] == 80
    torch.testing.assert_close(beside, alone)
    assert (moved - alone).abs().max() > 1e-3


def test_rows_keep_their_places_and_equal_lengths_share_a_call(model, monkeypatch):
    calls, forward = [], type(model.denoiser).forward

    def counting(self, hidden_states, *args, **kwargs):
        calls.append(len(hidden_states))
        return forward(self, hidden_states, *args, **kwargs)

    monkeypatch.setattr(type(model.denoiser), "forward", counting)
    noise, timesteps = noise_for(model, 4), torch.tensor([900.0, 500.0, 300.0, 20.0])
    prompts = ["circle", "a longer one", "square", "a lonelier 1"]
    conditioning = model.encode_prompts(prompts)
    with torch.no_grad():
        together = model.predict(noise, timesteps, conditioning)
        assert calls == [2, 2]
        for row in range(4):
            one = model.predict(noise[[row]], timesteps[[row]], model.encode_prompts([prompts[row]]))
            torch.testing.assert_close(together[[row]], one, rtol=1e-4, atol=1e-6)


def test_processes_that_wait_for_each_other_make_as_many_calls(monkeypatch):
    assert rows_of_one_length([7, 5, 7]) == [[0, 2], [1]]
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    assert rows_of_one_length([7, 5, 7]) == [[0], [1], [2]]


@pytest.mark.matrix
def test_shards_are_gathered_as_often_by_a_process_with_fewer_rows():
    """As in an inversion, where some images have arrived before others."""
    prompts, timesteps = ["circle", "a longer one", "square"], torch.tensor([900.0, 500.0, 20.0])
    whole, numbers = tiny_adapter("qwen_image_21"), (3, 1)
    noise = noise_for(whole)

    def predicted(model, num_rows):
        with torch.no_grad():
            return model.predict(noise[:num_rows], timesteps[:num_rows], model.encode_prompts(prompts[:num_rows]))

    def job(rank):
        model = tiny_adapter("qwen_image_21")
        join(Accelerator(cpu=True)).place(model.denoiser)
        return predicted(model, numbers[rank]).numpy()

    for array, num_rows in zip(together(job, environment=FSDP2), numbers, strict=True):
        torch.testing.assert_close(torch.from_numpy(array), predicted(whole, num_rows), rtol=1e-4, atol=1e-6)


def test_the_pipeline_mixes_prompts_of_a_call_and_the_sampler_does_not_let_it(model):
    noise = noise_for(model)
    packed = model.pipeline(
        prompt=PROMPTS, latents=model.pack(noise), num_inference_steps=3, height=32, width=32, output_type="latent"
    ).images
    assert (model.unpack(packed, (2, 2)) - sampled(model, noise)).abs().max() > 1e-3
    together = Sampler(model, 3, 4.0)(KEYS, PROMPTS, noise)
    for row in range(3):
        (alone,) = Sampler(model, 3, 4.0)(KEYS[row : row + 1], PROMPTS[row : row + 1], noise[row : row + 1])
        assert abs(np.asarray(together[row]).astype(int) - np.asarray(alone)).max() <= 1


def test_a_prompt_is_cut_before_the_pipeline_gets_it(model):
    limit = model.prompt_limits["processor"]
    long = "ä" * limit  # two tokens each
    assert model.shortened([long, "short", "a" * limit]) == ["ä" * (limit // 2), "short", "a" * limit]
    assert len(model.encode_prompts([long]).prompt_embeds[0]) <= model.max_sequence_length
    fits = model.encode_prompts(["a" * limit])
    assert fits.prompt_embeds.shape[1] == model.max_sequence_length
    cut = model.encode_prompts(["a" * limit + " and more"])
    assert torch.equal(cut.prompt_embeds, fits.prompt_embeds)
    noise = noise_for(model, 1)
    images = [Sampler(model, 2, 1.0)(KEYS[:1], ["a" * limit + end], noise)[0] for end in ("", " and more")]
    assert images[0].tobytes() == images[1].tobytes()


def test_features_are_those_before_the_last_norm_and_those_of_no_prompt_are_a_blanks(model):
    norm = model.pipeline.text_encoder.model.language_model.norm
    before = model.encode_prompts(["a"]).prompt_embeds
    norm.weight.data.mul_(2)
    assert torch.equal(model.encode_prompts(["a"]).prompt_embeds, before)
    assert torch.equal(model.encode_no_prompt().prompt_embeds, model.encode_prompts([" "]).prompt_embeds)


# ---- opacity


def test_images_are_encoded_as_opaque(model, monkeypatch):
    given, encode = [], model.pipeline.vae.encode
    monkeypatch.setattr(model.pipeline.vae, "encode", lambda pixels: (given.append(pixels), encode(pixels))[1])
    pixels = torch.rand(2, 3, RESOLUTION, RESOLUTION)
    model.encode_posterior(pixels)
    assert torch.equal(given[0][:, :3, 0], pixels * 2 - 1)
    assert (given[0][:, 3] == 1).all()


def test_what_is_transparent_shows_white_and_half_of_it_where_it_is_half_so(model, monkeypatch):
    alpha = torch.tensor([1.0, 0.0, -1.0])  # opaque, half so, transparent
    red = torch.tensor([1.0, -1.0, -1.0]).reshape(1, 3, 1, 1, 1).expand(1, 3, 1, 1, 3)
    decoded = torch.cat([red, alpha.reshape(1, 1, 1, 1, 3)], dim=1)
    monkeypatch.setattr(model.pipeline.vae, "decode", lambda codes, return_dict: (decoded,))
    pixels = model.decode_latents(noise_for(model, 1))
    assert pixels[0, :, 0].T.tolist() == [[1, 0, 0], [1, 0.5, 0.5], [1, 1, 1]]


# ---- steps and guidance


def test_steps_that_come_with_the_weights_are_taken_and_others_are_refused():
    model = tiny_adapter("qwen_image_21", sample_sigmas=[1.0, 0.7, 0.3])
    plain = tiny_adapter("qwen_image_21")
    assert not torch.allclose(model.noise_levels(3).level.sigma, plain.noise_levels(3).level.sigma)
    noise = noise_for(model, 1)
    (theirs,) = model.pipeline(
        prompt=PROMPTS[:1], latents=model.pack(noise), height=32, width=32, output_type="latent", return_dict=False
    )
    torch.testing.assert_close(sampled(model, noise, PROMPTS[:1]), model.unpack(theirs, (2, 2)), rtol=1e-4, atol=1e-5)
    for refused in (lambda: model.noise_levels(4), lambda: Sampler(model, 40, 1.0)):
        with pytest.raises(UserError, match=r"made for the 3 steps of sample_sigmas.*num_inference_steps=3"):
            refused()


def test_predictions_beyond_the_policy_are_those_of_policy_and_start_each_with_its_own_text(model):
    """The pipeline's cache would hand keys and values that one of both made of the text to the other."""
    model.prepare_training("lora", rank=2, alpha=8)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.denoiser.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    noise = latents = noise_for(model, 1)
    conditioning, levels = model.encode_prompts(PROMPTS[:1]), model.noise_levels(3)
    with torch.no_grad():
        for number, timestep in enumerate(levels.timesteps):
            prediction = model.predict(latents, timestep[None], conditioning)
            with model.reference():
                start = model.predict(latents, timestep[None], conditioning)
            beyond = start + 2 * (prediction - start)
            latents = model.schedule.step(latents, beyond, levels.level[number], levels.level[number + 1])
    sampler = Sampler(model, 3, 1.0, strength=2.0)
    with sampler._away_from_start(), torch.no_grad():
        shown = sampler._latents(KEYS[:1], PROMPTS[:1], noise)
    torch.testing.assert_close(shown, latents, rtol=1e-4, atol=1e-5)


def test_sides_make_whole_slots():
    model = tiny_adapter("qwen_image_21")
    with pytest.raises(UserError, match="choose a multiple of 32"):
        Sampler(model, 2, 1.0, resolution=48)


# ---- without weights


def test_a_pipeline_without_processor_is_built_all_the_same(model):
    parts = {
        name: {**getattr(model.pipeline, name).config, "_class_name": type(getattr(model.pipeline, name)).__name__}
        for name in ("transformer", "vae", "scheduler")
    }
    architecture = {"pipeline": "QwenImage21Pipeline", "parts": parts}
    pipeline = build_pipeline(architecture, torch.float32, "meta", model.stand_ins)
    assert next(pipeline.transformer.parameters()).is_meta
    assert pipeline.vae_scale_factor == 16
