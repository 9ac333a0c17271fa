"""A16: guidance of 1 and less is no guidance, as in the pipelines: in sampling, rollouts and pictures alike."""

from types import SimpleNamespace

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from alignbench.batch import PromptBatch
from alignbench.configuration.compose import composed
from alignbench.context import Context
from alignbench.generation.pipeline_sampler import Sampler
from alignbench.models.tiny_random import RESOLUTION, tiny_adapter
from alignbench.objectives.inversion import invert
from alignbench.objectives.inversion_path import InversionSettings

FAMILIES = ("stable_diffusion", "stable_diffusion_xl", "stable_diffusion_3", "flux")  # whose pipelines have one sense
KINDS = {name: (name, {}) for name in FAMILIES} | {"flux_undistilled": ("flux", {"guidance_embeds": False})}
UNDISTILLED = [kind for kind in KINDS if kind != "flux"]
PROMPTS = ["a red circle", "a blue square left of a green cross"]
STEPS = 3
SCALES = [0.0, 0.5, 1.0, 1.5]
CONTEXT = Context(step=0, seed=0, micro_batch_size=2)


def make(kind):
    family, settings = KINDS[kind]
    model = tiny_adapter(family, **settings)
    return model, torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(0))


def sampled(model, noise, scale):
    conditioning = model.encode_prompts(PROMPTS)
    unconditional = model.unconditional(scale, conditioning)
    return model.sample(noise, conditioning, model.noise_levels(STEPS), scale, unconditional).latents


def of_the_pipeline(model, noise, **arguments):
    """Return the latents that diffusers' own pipeline makes, whose arguments are spelled out in the tests."""
    packed = model.pipeline(
        prompt=PROMPTS,
        latents=model.pack(noise),
        num_inference_steps=STEPS,
        height=RESOLUTION,
        width=RESOLUTION,
        output_type="latent",
        **arguments,
    ).images
    return model.unpack(packed, noise.shape[-2:])


def guidance_of_the_pipeline(kind, scale):
    if kind == "flux_undistilled":
        return {"true_cfg_scale": scale, "negative_prompt": ["", ""], "max_sequence_length": 32}
    lengths = {} if kind in ("stable_diffusion", "stable_diffusion_xl") else {"max_sequence_length": 32}
    return {"guidance_scale": scale, **lengths}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kind", KINDS)
def test_sampling_at_a_guidance_ends_where_the_pipeline_does(kind, scale):
    model, noise = make(kind)
    theirs = of_the_pipeline(model, noise, **guidance_of_the_pipeline(kind, scale))
    torch.testing.assert_close(sampled(model, noise, scale), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 0.5])
@pytest.mark.parametrize("kind", UNDISTILLED)
def test_guidance_below_1_is_that_of_1_and_costs_one_call_a_step(kind, scale):
    model, noise = make(kind)
    before = model.network_passes
    latents = sampled(model, noise, scale)
    assert model.network_passes - before == STEPS * len(noise)
    assert torch.equal(latents, sampled(model, noise, 1.0))


@pytest.mark.parametrize("kind", UNDISTILLED)
def test_an_unconditional_prompt_does_not_switch_guidance_on(kind):
    model, noise = make(kind)
    conditioning, timesteps = model.encode_prompts(PROMPTS), torch.tensor([500.0, 500.0])
    given = model.predict(noise, timesteps, conditioning, 0.5, model.without_prompts(conditioning))
    assert torch.equal(given, model.predict(noise, timesteps, conditioning))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kind", KINDS)
def test_pictures_show_what_a_rollout_of_srpo_makes(kind, scale):
    model, _ = make(kind)
    values = [f"method.num_rollout_steps={STEPS}", f"method.rollout_guidance_scale={scale}"]
    cfg = composed(["method=direct_align", "model=sd15", "data=prompts", "data.path=FILE", *values]).method
    reward = SimpleNamespace(has_embeddings=False)  # reads captions as they are, and is not asked here
    method = instantiate(OmegaConf.merge(cfg, {"reward": None}), reward=reward)
    batch = PromptBatch(torch.tensor([0, 1]), PROMPTS, model.encode_prompts(PROMPTS))
    (rollout,) = method.recoveries(model, batch, CONTEXT)
    shown = Sampler(model, STEPS, scale)([("p0", 0), ("p1", 0)], PROMPTS, rollout.noise)
    expected = (model.decode_latents(rollout.latents) * 255).permute(0, 2, 3, 1)
    for picture, pixels in zip(shown, expected, strict=True):
        levels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).reshape(pixels.shape)
        assert (levels.float() - pixels).abs().max() < 0.51  # rounding to a level


def test_inversion_still_has_the_weights_below_1_that_smpo_compares():
    model, noise = make("stable_diffusion")
    conditioning, timesteps = model.encode_prompts(PROMPTS), torch.tensor([350.0, 350.0])
    found = {}
    for weight in (None, 1.0, 0.5, 0.0, -1.0):
        settings = InversionSettings("exact", 10, 0, "every", False, 0.0, weight, "policy", True)
        found[weight] = invert(model, noise, conditioning, timesteps, settings, CONTEXT).target
    assert torch.equal(found[None], found[1.0])
    assert not any(torch.equal(found[1.0], found[weight]) for weight in (0.5, 0.0, -1.0))
