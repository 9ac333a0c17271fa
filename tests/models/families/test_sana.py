"""Sana: an instruction before each prompt but the empty one, a VAE without a posterior, a multistep solver."""

import inspect
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, SanaPipeline, SanaSprintPipeline, SCMScheduler

from alignbench.data.batches.encode import Encoder
from alignbench.errors import UserError
from alignbench.generation.pipeline_sampler import Sampler
from alignbench.models.families.sana import Sana
from alignbench.models.tiny_random import RESOLUTION, tiny_adapter
from alignbench.models.tiny_random.sana import tiny_sana

PROMPTS = ["a red circle", "", "a far longer caption that asks for a blue square left of a green cross"]
INSTRUCTION = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
TIMESTEPS = torch.tensor([900.0, 500.0, 20.0])


@pytest.fixture
def model():
    return tiny_adapter("sana")


def noise_for(model):
    return torch.randn(3, *model.latent_shape, generator=torch.Generator().manual_seed(0))


def features_of_the_pipeline(model):
    """Return features and masks of prompts and of what the pipeline guides away from."""
    return model.pipeline.encode_prompt(
        PROMPTS, device="cpu", max_sequence_length=32, complex_human_instruction=INSTRUCTION
    )


# ---- text


def test_prompts_follow_the_instruction_and_no_prompt_follows_nothing(model):
    embeds, mask, negative, negative_mask = features_of_the_pipeline(model)
    conditioning = model.encode_prompts(PROMPTS)
    assert conditioning.known_mask.sum(1).tolist() == [2 + len(PROMPTS[0]), 2, 32]  # the last one is cut
    for row, theirs, real in zip(conditioning.text_rows, embeds, mask.bool(), strict=True):
        assert torch.equal(row, theirs[real])
    without = model.encode_no_prompt()
    assert torch.equal(without.prompt_embeds[0], negative[0][negative_mask[0].bool()])
    empty = model.encode_prompts([""]).prompt_embeds
    assert without.prompt_embeds.shape[1] < empty.shape[1]


def test_a_prompt_for_which_there_is_room_is_not_cut(model):
    longest = "a" * (model.prompt_limits["tokenizer"] - 1)  # and the mark of the beginning
    rows = model.encode_prompts([longest, longest + "a", longest + "b"]).text_rows
    assert [len(row) for row in rows] == [32] * 3
    assert torch.equal(rows[1], rows[2])
    assert not torch.equal(model.encode_prompts([longest[1:] + "b"]).text_rows[0], rows[0])
    assert model.cut_prompts([longest, longest + "a"])["Gemma"].cut == 1


def test_padding_is_not_attended_to(model):
    conditioning = model.encode_prompts(PROMPTS)
    assert conditioning.text_mask is not None
    with torch.no_grad():
        masked, unmasked = (
            model.predict(noise_for(model), TIMESTEPS, rows)
            for rows in (conditioning, replace(conditioning, text_mask=None))
        )
    assert (masked[2] - unmasked[2]).abs().max() < 1e-6  # which has no padding
    assert (masked[:2] - unmasked[:2]).abs().amax((1, 2, 3)).min() > 1e-3


def test_guidance_is_the_usual_formula(model):
    conditional, unconditional = torch.randn(2, 3, *model.latent_shape)
    expected = unconditional + 4.5 * (conditional - unconditional)
    assert torch.equal(model.guide(conditional, unconditional, 4.5), expected)


def test_time_is_scaled_as_the_network_was_trained(model):
    conditioning = model.encode_prompts(PROMPTS)
    with torch.no_grad():
        expected = model.predict(noise_for(model), TIMESTEPS / 4, conditioning)
        model.denoiser.register_to_config(timestep_scale=0.25)
        assert torch.equal(model.predict(noise_for(model), TIMESTEPS, conditioning), expected)


# ---- latents


def test_codes_are_scaled_and_have_no_spread(model):
    pixels = torch.rand(2, 3, RESOLUTION, RESOLUTION)
    mean, std = model.encode_posterior(pixels)
    with torch.no_grad():
        codes = model.pipeline.vae.encode(pixels * 2 - 1).latent
    assert torch.equal(mean, codes)
    assert not std.any()
    assert torch.equal(model.latents_of(mean), codes * 0.41407)


def test_draws_from_a_posterior_are_refused(model):
    Encoder(model, "mode")
    with pytest.raises(
        UserError, match=r"data.posterior=sample draws from the posterior of the VAE.* SanaPipeline has none"
    ):
        Encoder(model, "sample")


def test_decoding_anew_in_the_backward_pass_changes_no_gradient(model):
    def gradient():
        latents = noise_for(model).requires_grad_()
        calls.clear()
        (found,) = torch.autograd.grad(model.decode_latents(latents).square().mean(), latents)
        return found, len(calls)

    calls = []
    model.pipeline.vae.decoder.register_forward_pre_hook(lambda *args: calls.append(args))
    plain, once = gradient()
    model.enable_checkpointing(network=False, decoder=True)
    checkpointed, twice = gradient()
    assert torch.equal(plain, checkpointed)
    assert plain.abs().sum() > 0
    assert (once, twice) == (1, 2)


def test_sides_are_those_that_the_pipeline_takes(model):
    assert model.side_multiple == 32
    with pytest.raises(UserError, match=r"model.resolution=48 does not fit the model; choose a multiple of 32"):
        Sana(tiny_sana(), 48, ["to_q"])


# ---- the sampler that the weights come with


def test_rollouts_take_the_steps_of_euler_and_the_head_says_so(model):
    assert type(model.pipeline.scheduler).__name__ == "FlowMatchEulerDiscreteScheduler"
    assert model.pipeline.scheduler.config.shift == 3.0
    (remark,) = model.remarks
    assert "FlowMatchEulerDiscrete in place of the DPMSolverMultistep" in remark
    assert "sampling.scheduler=DPMSolverMultistep" in remark


def test_the_published_sampler_gives_the_images_of_the_published_pipeline(model):
    noise = noise_for(model)
    pictures = Sampler(model, 5, 4.5, scheduler="DPMSolverMultistep")([("p", 0)] * 3, PROMPTS, noise)
    pipeline: Any = tiny_sana()
    theirs = pipeline(
        PROMPTS, latents=noise, num_inference_steps=5, guidance_scale=4.5, height=32, width=32,
        use_resolution_binning=False, max_sequence_length=32,
    ).images  # fmt: skip
    assert [one.tobytes() for one in pictures] == [one.tobytes() for one in theirs]


def test_weights_of_another_noise_process_and_sana_sprint_are_refused():
    pipeline = tiny_sana()
    pipeline.scheduler = DDPMScheduler()
    with pytest.raises(UserError, match="the weights come with a DDPMScheduler, whose noise process no sampler"):
        Sana(pipeline, RESOLUTION, ["to_q"])
    parts: dict[str, Any] = tiny_sana().components | {"scheduler": SCMScheduler()}
    sprint = SanaSprintPipeline(**parts)
    with pytest.raises(UserError, match="holds a SanaSprintPipeline, but Sana works with a SanaPipeline"):
        Sana(sprint, RESOLUTION, ["to_q"])
