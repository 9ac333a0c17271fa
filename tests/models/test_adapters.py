"""What every family promises, on tiny random networks: the pipeline's numbers, exact references, lasting weights."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FluxPipeline, PNDMScheduler
from safetensors.torch import load_file

from alignbench.batch import Conditioning
from alignbench.crop import CropBox
from alignbench.diffusion.flow_matching import shift_exponent
from alignbench.errors import UserError
from alignbench.generation.pipeline_sampler import Sampler
from alignbench.models.adapter import ModelAdapter
from alignbench.models.families.flux import Flux
from alignbench.models.families.stable_diffusion import StableDiffusion
from alignbench.models.families.stable_diffusion_3 import StableDiffusion3
from alignbench.models.families.stable_diffusion_xl import StableDiffusionXL
from alignbench.models.find_families import FAMILIES
from alignbench.models.frame_latents import FrameLatents
from alignbench.models.tiny_random import RESOLUTION, TINY, tiny_adapter
from alignbench.models.tiny_random.flux import tiny_flux
from alignbench.models.tiny_random.stable_diffusion import tiny_stable_diffusion
from alignbench.models.tiny_random.stable_diffusion_3 import tiny_stable_diffusion_3
from alignbench.models.tiny_random.stable_diffusion_xl import tiny_stable_diffusion_xl
from alignbench.models.weights.loading import load_pipeline
from alignbench.models.weights.policy_files import LORA_FILE
from tests.families import marked
from tests.of_the_pipeline import images_of, latents_of

KINDS: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in FAMILIES} | {
    "flux_undistilled": ("flux", {"guidance_embeds": False}),
}
VARIANTS = KINDS | {  # which sample in another way, and are the same to all else
    "stable_diffusion_xl_with_empty_prompt": ("stable_diffusion_xl", {"force_zeros_for_empty_prompt": False}),
    "stable_diffusion_3_dynamic": ("stable_diffusion_3", {"use_dynamic_shifting": True}),
    "stable_diffusion_3_without_t5": ("stable_diffusion_3", {"with_t5": False}),
    "flux2_klein_distilled": ("flux2_klein", {"is_distilled": True}),
}
PROMPTS = ["a red circle", "", "Ünïcode 你好, a far longer caption that asks for a blue square left of a green cross"]
KEYS = [("p0", 0), ("p1", 0), ("p2", 0)]
NUM_STEPS = 4


def make(name: str, **arguments) -> ModelAdapter:
    family, settings = VARIANTS[name]
    return tiny_adapter(family, **settings, **arguments)


@pytest.fixture(params=marked(KINDS))
def kind(request) -> str:
    return request.param


@pytest.fixture
def model(kind) -> ModelAdapter:
    return make(kind)


@pytest.fixture(params=VARIANTS)
def variant(request) -> ModelAdapter:
    """Any model, in the first step of CI too: for what finds nearly every mistake."""
    return make(request.param)


@pytest.fixture(params=marked(VARIANTS))
def spread(request) -> ModelAdapter:
    """Any model, spread over both steps of CI."""
    return make(request.param)


def noise_for(model: ModelAdapter, batch: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, *model.latent_shape, generator=torch.Generator().manual_seed(seed))


def guidance_of(model: ModelAdapter, scale: float | None, batch: int = 3) -> dict:
    if model.guidance_is_distilled:
        return {"guidance_scale": scale}
    unconditional = model.unconditional(scale, model.encode_prompts(PROMPTS[:batch]))
    return {} if unconditional is None else {"guidance_scale": scale, "unconditional": unconditional}


def predictions(model: ModelAdapter) -> torch.Tensor:
    with torch.no_grad():
        timesteps = torch.tensor([900.0, 500.0, 20.0], dtype=torch.float64)
        return model.predict(noise_for(model), timesteps, model.encode_prompts(PROMPTS))


def train_a_little(model: ModelAdapter, updates: int = 2) -> None:
    parameters = [parameter for parameter in model.denoiser.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    conditioning = model.encode_prompts(PROMPTS)
    for _ in range(updates):
        optimizer.zero_grad()
        model.predict(noise_for(model), torch.tensor([900.0, 500.0, 20.0]), conditioning).square().mean().backward()
        optimizer.step()


def test_every_family_has_a_tiny_pipeline():
    assert {name: tiny.adapter for name, tiny in TINY.items()} == FAMILIES


# ---- the pipeline's own numbers


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_sampling_and_decoding_give_the_images_of_the_pipeline(variant, scale):
    noise = noise_for(variant)
    trajectory = variant.sample(
        noise, variant.encode_prompts(PROMPTS), variant.noise_levels(NUM_STEPS), **guidance_of(variant, scale)
    )
    ours = variant.decode_latents(trajectory.latents).permute(0, 2, 3, 1).detach().numpy()
    arguments = variant.generation_arguments(len(PROMPTS), scale)
    theirs = images_of(variant, PROMPTS, noise, num_inference_steps=NUM_STEPS, **arguments)
    assert abs(ours - theirs).max() < 5e-6


def test_wide_images_are_those_of_the_pipeline(spread):
    """A wide image makes as many tokens as a square of half its width, so their noise levels are the same."""
    height = max(16, spread.side_multiple)
    spread.resolution = 2 * height
    noise = torch.randn(3, *spread.latent_shape_at(height, 4 * height), generator=torch.Generator().manual_seed(0))
    conditioning = spread.with_crops(
        spread.encode_prompts(PROMPTS), [CropBox.uncropped((height, 4 * height))] * len(PROMPTS)
    )
    unconditional = spread.unconditional(4.0, conditioning)
    ours = spread.sample(noise, conditioning, spread.noise_levels(NUM_STEPS), 4.0, unconditional).latents
    arguments = spread.generation_arguments(len(PROMPTS), 4.0)
    theirs = latents_of(spread, PROMPTS, noise, num_inference_steps=NUM_STEPS, **arguments)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_pictures_show_what_sample_computes(model, scale):
    noise = noise_for(model)
    latents = model.sample(
        noise, model.encode_prompts(PROMPTS), model.noise_levels(NUM_STEPS), **guidance_of(model, scale)
    ).latents
    expected = (model.decode_latents(latents) * 255).permute(0, 2, 3, 1)
    pictures = Sampler(model, NUM_STEPS, scale)(KEYS, PROMPTS, noise)
    for picture, pixels in zip(pictures, expected, strict=True):
        assert picture.shape == (RESOLUTION, RESOLUTION, 3)
        assert (torch.from_numpy(picture).float() - pixels).abs().max() < 0.51  # rounding to a level


@pytest.mark.parametrize("num_steps", [1, 7, 20])
def test_the_ladder_is_what_the_pipeline_visits(spread, num_steps):
    visited = []
    num_steps = max(num_steps, 2 if spread.published.config.get("shift_terminal") else 1)
    spread.pipeline(
        prompt=[""],
        num_inference_steps=num_steps,
        output_type="latent",
        **spread.size_arguments(RESOLUTION, RESOLUTION),
        callback_on_step_end=lambda pipeline, step, timestep, kwargs: visited.append(float(timestep)) or kwargs,
        **spread.generation_arguments(1, 1.0),
    )
    noise_levels = spread.noise_levels(num_steps)
    assert noise_levels.timesteps.tolist() == visited
    assert len(noise_levels.level) == num_steps + 1


def test_stable_diffusion_ends_at_the_first_entry_of_its_table():
    model = make("stable_diffusion")
    last = model.noise_levels(20).level[20]
    assert last.sigma > 0
    assert last.alpha == model.schedule.level(torch.tensor(0)).alpha


def test_stable_diffusion_xl_takes_the_steps_of_the_euler_sampler_it_is_published_with():
    pipeline, model = tiny_stable_diffusion_xl(), make("stable_diffusion_xl")
    assert isinstance(pipeline.scheduler, EulerDiscreteScheduler)
    noise = noise_for(model)
    for num_steps in (4, 7):
        theirs = pipeline(
            PROMPTS, latents=noise, num_inference_steps=num_steps, height=32, width=32, output_type="latent"
        ).images
        conditioning, guidance = model.encode_prompts(PROMPTS), guidance_of(model, 5.0)
        ours = model.sample(noise, conditioning, model.noise_levels(num_steps), **guidance).latents
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)  # Euler divides by small numbers


@pytest.mark.parametrize("name", ["flux", "stable_diffusion_3_dynamic"])
def test_dynamic_shifting_ends_clean_and_grows_with_the_resolution(name):
    model = make(name)
    assert model.noise_levels(20).level[20].sigma == 0
    middle = model.noise_levels(20).level[10].sigma
    model.resolution *= 8
    assert model.noise_levels(20).level[10].sigma > middle


def test_any_sampler_of_a_stable_diffusion_checkpoint_becomes_ddim_without_clipping():
    pipeline = tiny_stable_diffusion()
    pipeline.scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        steps_offset=1,
        set_alpha_to_one=False,
    )  # as Stable Diffusion 1.5 is published
    model = StableDiffusion(pipeline, RESOLUTION, ["to_q"])
    assert isinstance(pipeline.scheduler, DDIMScheduler)
    assert not pipeline.scheduler.config.clip_sample
    assert torch.equal(model.noise_levels(7).timesteps, make("stable_diffusion").noise_levels(7).timesteps)
    assert model.noise_levels(7).level[7].sigma == make("stable_diffusion").noise_levels(7).level[7].sigma


@pytest.mark.parametrize("num_steps", [3, 20, 30])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_ddim_lands_at_the_timesteps_it_visits_whatever_their_spacing(spacing, num_steps):
    pipeline = tiny_stable_diffusion()
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, timestep_spacing=spacing)
    model = StableDiffusion(pipeline, RESOLUTION, ["to_q"])
    noise, levels = noise_for(model), model.noise_levels(num_steps)
    torch.testing.assert_close(levels.level.alpha[:-1], model.schedule.level(levels.timesteps).alpha)
    ours = model.sample(noise, model.encode_prompts(PROMPTS), levels).latents
    theirs = pipeline(
        PROMPTS, latents=noise, num_inference_steps=num_steps, guidance_scale=1.0, height=32, width=32,
        output_type="latent",
    ).images  # fmt: skip
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_static_shifting_is_that_of_the_scheduler_whatever_the_resolution():
    model = make("stable_diffusion_3")
    sigma = model.noise_levels(20).level.sigma
    model.resolution *= 8
    assert torch.equal(model.noise_levels(20).level.sigma, sigma)
    assert sigma[0] == 1
    assert sigma[20] == 0
    even = torch.linspace(1, 3 / 1002, 20, dtype=torch.float64)  # the scheduler shifts its end, 1 / 1000, too
    torch.testing.assert_close(sigma[:20], 3 * even / (1 + 2 * even), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", ["stable_diffusion", "stable_diffusion_xl"])
def test_both_prediction_types_of_stable_diffusion_sample_like_the_pipeline(name, prediction_type):
    model = make(name, prediction_type=prediction_type)
    noise = noise_for(model)
    ours = model.sample(noise, model.encode_prompts(PROMPTS), model.noise_levels(NUM_STEPS)).latents
    theirs = model.pipeline(
        PROMPTS,
        latents=noise,
        num_inference_steps=NUM_STEPS,
        guidance_scale=1.0,
        output_type="latent",
        height=32,
        width=32,
    ).images
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(8, 8), (4, 10), (10, 4)])
def test_latents_are_packed_as_flux_packs_them(size):
    model, latents = make("flux"), torch.randn(3, 4, *size, generator=torch.Generator().manual_seed(0))
    packed = FluxPipeline._pack_latents(latents, *latents.shape)
    assert torch.equal(model.pack(latents), packed)
    assert torch.equal(model.unpack(packed, latents.shape[-2:]), latents)


# ---- pixels and latents


def test_latents_are_codes_of_the_vae_in_another_scale(model):
    """`denormalise` is held to the pipeline's by the tests above, and this holds encoding to `denormalise`."""
    pixels, vae = torch.rand(3, 3, RESOLUTION, RESOLUTION), model.pipeline.vae
    mean, _ = model.encode_posterior(pixels)
    latents = model.latents_of(mean)
    assert latents.shape == (3, *model.latent_shape)
    if not isinstance(model, FrameLatents):  # whose are in tests/models/test_frame_latents.py
        encoded = vae.encode(pixels * 2 - 1)
        codes = encoded.latent_dist.mode() if model.has_posterior else encoded.latent
        torch.testing.assert_close(model.denormalise(latents, vae), codes, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["stable_diffusion", "stable_diffusion_xl", "stable_diffusion_3", "flux", "z_image", "lumina2", "chroma"]
)
def test_latents_carry_the_scale_and_shift_of_the_vae(name):
    model, pixels = make(name), torch.rand(3, 3, RESOLUTION, RESOLUTION)
    vae = model.pipeline.vae
    mode = vae.encode(pixels * 2 - 1).latent_dist.mode()
    expected = (mode - (vae.config.shift_factor or 0)) * vae.config.scaling_factor
    mean, _ = model.encode_posterior(pixels)
    torch.testing.assert_close(model.latents_of(mean), expected)


def test_posterior_samples_depend_on_their_own_noise_alone(model):
    pixels = torch.rand(3, 3, RESOLUTION, RESOLUTION)
    mean, std = model.encode_posterior(pixels)
    noise = torch.randn_like(mean)
    together = model.latents_of(mean, std, noise)
    alone = model.latents_of(*model.encode_posterior(pixels[1:2]), noise[1:2])
    torch.testing.assert_close(together[1:2], alone, rtol=1e-5, atol=1e-5)
    assert torch.allclose(together, model.latents_of(mean)) != model.has_posterior


def test_the_gradient_flows_through_decoding_and_the_last_steps(model):
    latents = noise_for(model).requires_grad_()
    model.decode_latents(latents).mean().backward()
    assert latents.grad is not None
    assert (latents.grad.flatten(1).abs().sum(1) > 0).all()
    assert all(parameter.grad is None for parameter in model.pipeline.vae.parameters())

    model.prepare_training("lora", rank=2, alpha=2)
    conditioning, noise_levels = model.encode_prompts(PROMPTS), model.noise_levels(NUM_STEPS)
    assert not model.sample(noise_for(model), conditioning, noise_levels).latents.requires_grad
    trajectory = model.sample(noise_for(model), conditioning, noise_levels, grad_last=1, keep_states=True)
    assert trajectory.latents.requires_grad
    assert [state.requires_grad for state in trajectory.noisy_latents] == [False] * NUM_STEPS


def test_gradient_checkpointing_changes_memory_not_gradients(model):
    def gradients() -> list[torch.Tensor]:
        model.denoiser.zero_grad()
        clean = model.sample(
            noise_for(model), model.encode_prompts(PROMPTS), model.noise_levels(2), grad_last=1
        ).latents
        model.decode_latents(clean).square().mean().backward()
        return [parameter.grad.clone() for parameter in model.denoiser.parameters() if parameter.grad is not None]

    model.prepare_training("full", rank=0, alpha=0)
    plain = gradients()
    model.enable_checkpointing(network=True, decoder=True)
    torch.testing.assert_close(gradients(), plain, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("adapter", "tiny", "dtype"),
    [
        (StableDiffusion, tiny_stable_diffusion, torch.bfloat16),
        (StableDiffusionXL, tiny_stable_diffusion_xl, torch.float16),
        (StableDiffusion3, tiny_stable_diffusion_3, torch.float16),
    ],
    ids=["stable_diffusion", "stable_diffusion_xl", "stable_diffusion_3"],
)
def test_the_vae_stays_float32_beside_a_half_precision_network_and_under_autocast(adapter, tiny, dtype):
    pipeline = tiny().to(dtype)
    model = adapter(pipeline, RESOLUTION, ["to_q"])
    assert model.dtype == dtype
    assert pipeline.vae.dtype == torch.float32
    assert predictions(model).dtype == torch.float32
    plain = model.decode_latents(noise_for(model))
    with torch.autocast("cpu", dtype):
        assert torch.equal(model.decode_latents(noise_for(model)), plain)
    assert len(Sampler(model, 2, 4.0)(KEYS, PROMPTS, noise_for(model))) == 3


def test_a_vae_of_stable_diffusion_xl_that_overflows_never_decodes_in_float16():
    pipeline = tiny_stable_diffusion_xl()
    with pytest.raises(UserError, match="vae_dtype=float16 would blacken images"):
        StableDiffusionXL(pipeline, RESOLUTION, ["to_q"], vae_dtype="float16")
    pipeline.vae.register_to_config(force_upcast=False)
    model = StableDiffusionXL(pipeline, RESOLUTION, ["to_q"], vae_dtype="float16")
    assert model.decode_latents(noise_for(model)).dtype == torch.float32


# ---- predict


def test_a_batch_equals_its_samples_one_by_one(model):
    together = predictions(model)
    conditioning, timesteps = model.encode_prompts(PROMPTS), torch.tensor([900.0, 500.0, 20.0])
    for row in range(3):
        with torch.no_grad():
            alone = model.predict(
                noise_for(model)[row : row + 1], timesteps[row : row + 1], conditioning.rows(row, row + 1)
            )
        torch.testing.assert_close(alone, together[row : row + 1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", marked(n for n, tiny in TINY.items() if "train_guidance_scale" not in tiny.settings))
def test_classifier_free_guidance_is_the_familys_formula_with_or_without_its_gradient(name):
    model = make(name)
    model.prepare_training("full", rank=0, alpha=0)
    noisy_latents, timesteps = noise_for(model), torch.full((3,), 500)
    full = model.encode_prompts(PROMPTS)
    empty = model.without_prompts(full)
    conditional = model.predict(noisy_latents, timesteps, full)
    unconditional = model.predict(noisy_latents, timesteps, empty)
    weight = model.guidance_weight(3.0)
    expected = model.guide(conditional, unconditional, weight)
    for detach in (False, True):
        guided = model.predict(noisy_latents, timesteps, full, 3.0, empty, detach_unconditional=detach)
        torch.testing.assert_close(guided, expected, rtol=1e-4, atol=1e-5)
    parameter = list(model.denoiser.parameters())[-1]
    (gradient,) = torch.autograd.grad(guided.sum(), parameter)
    detached = model.guide(conditional, unconditional.detach(), weight)
    (conditional_gradient,) = torch.autograd.grad(detached.sum(), parameter)
    assert gradient.abs().max() > 0
    torch.testing.assert_close(gradient, conditional_gradient, rtol=1e-4, atol=1e-4)


def test_distilled_guidance_reaches_the_network_and_defaults_to_the_training_scale():
    model = make("flux")
    noisy_latents, timesteps = noise_for(model), torch.full((3,), 500.0)
    conditioning = model.encode_prompts(PROMPTS)
    with torch.no_grad():
        default = model.predict(noisy_latents, timesteps, conditioning)
        assert torch.equal(default, model.predict(noisy_latents, timesteps, conditioning, 3.5))
        assert not torch.allclose(default, model.predict(noisy_latents, timesteps, conditioning, 1.0))


def test_guidance_that_does_not_fit_the_family_is_refused():
    arguments = noise_for(make("flux")), torch.full((3,), 500)
    model = make("stable_diffusion")
    conditioning = model.encode_prompts(PROMPTS)
    with pytest.raises(ValueError, match="needs the unconditional prompt"):
        model.predict(*arguments, conditioning, guidance_scale=3.0)
    with pytest.raises(ValueError, match="has no effect"):
        model.predict(*arguments, conditioning, unconditional=conditioning)
    model = make("flux")
    conditioning = model.encode_prompts(PROMPTS)
    with pytest.raises(ValueError, match="takes no unconditional prompt"):
        model.predict(*arguments, conditioning, 3.0, conditioning)
    model.train_guidance_scale = None
    with pytest.raises(ValueError, match="give guidance_scale"):
        model.predict(*arguments, conditioning)


def test_rows_that_differ_in_number_are_refused(model):
    conditioning = model.encode_prompts(PROMPTS)
    with pytest.raises(ValueError, match="3 noisy latents"):
        model.predict(noise_for(model), torch.tensor(500), conditioning)
    with pytest.raises(ValueError, match=r"\[2\] rows"):
        model.predict(noise_for(model), torch.full((3,), 500), conditioning.rows(0, 2))


def test_network_passes_count_samples(model):
    predictions(model)
    assert model.network_passes == 3
    model.sample(
        noise_for(model), model.encode_prompts(PROMPTS), model.noise_levels(NUM_STEPS), **guidance_of(model, 4.0)
    )
    assert model.network_passes == 3 + 3 * NUM_STEPS * (1 if model.guidance_is_distilled else 2)


def test_prompts_are_encoded_without_a_gradient_as_the_pipeline_does(model):
    conditioning = model.encode_prompts(PROMPTS)
    assert isinstance(conditioning, Conditioning)
    assert len(conditioning) == 3
    assert not conditioning.prompt_embeds.requires_grad
    assert not torch.equal(conditioning.prompt_embeds[0], conditioning.prompt_embeds[2])


def test_guidance_asks_for_no_features_where_it_needs_none(spread):
    conditioning = spread.encode_prompts(PROMPTS)
    for scale in (None, spread.no_guidance_scale, 0):
        assert spread.unconditional(scale, conditioning) is None
    without = spread.unconditional(4.0, conditioning)
    assert (without is None) == (spread.guidance_is_distilled or spread.guidance_weight(4.0) == 1)
    if without is not None:
        assert len(without) == len(conditioning)
        assert not torch.equal(without.prompt_embeds[0], conditioning.prompt_embeds[0])


def test_stable_diffusion_xl_guides_away_from_zeros_or_from_the_empty_prompt_as_its_checkpoint_says():
    zeros, empty = make("stable_diffusion_xl"), make("stable_diffusion_xl_with_empty_prompt")
    for model, expected in ((zeros, 0.0), (empty, empty.encode_prompts([""]).prompt_embeds.expand(3, -1, -1))):
        conditioning = model.encode_prompts(PROMPTS)
        conditioning = replace(conditioning, time_ids=torch.arange(18.0).reshape(3, 6))
        without = model.without_prompts(conditioning)
        assert torch.equal(without.prompt_embeds, torch.zeros_like(conditioning.prompt_embeds) + expected)
        assert torch.equal(without.time_ids, conditioning.time_ids)
        assert (without.pooled_prompt_embeds == 0).all() == (model is zeros)


def test_stable_diffusion_xl_declares_its_images_uncropped_and_as_large_as_they_are():
    model = make("stable_diffusion_xl")
    model.resolution = 1024
    assert model.encode_prompts(PROMPTS).time_ids.tolist() == [[1024, 1024, 0, 0, 1024, 1024]] * 3


def test_stable_diffusion_xl_heeds_the_sizes_it_is_told():
    model = make("stable_diffusion_xl")
    conditioning = model.encode_prompts(PROMPTS)
    small = replace(conditioning, time_ids=conditioning.time_ids / 4)
    with torch.no_grad():
        told = [model.predict(noise_for(model), torch.full((3,), 500), rows) for rows in (conditioning, small)]
    assert not torch.allclose(*told)


def test_stable_diffusion_3_without_t5_has_zeros_in_its_place():
    whole, without = (
        make(name).encode_prompts(PROMPTS) for name in ("stable_diffusion_3", "stable_diffusion_3_without_t5")
    )
    assert whole.prompt_embeds.shape[1] == 77 + 32
    assert (without.prompt_embeds[:, 77:] == 0).all()
    assert (without.prompt_embeds[:, :77] != 0).any()


# ---- training timesteps


@pytest.mark.parametrize("name", ["stable_diffusion", "stable_diffusion_xl"])
def test_stable_diffusion_draws_integer_timesteps_evenly(name):
    draws = make(name).sample_timesteps(20000, torch.Generator().manual_seed(0))
    assert torch.equal(draws, draws.round())
    assert draws.min() == 0
    assert draws.max() == 999
    assert draws.mean().item() == pytest.approx(499.5, abs=6)


@pytest.mark.parametrize("name", ["flux", "stable_diffusion_3_dynamic"])
def test_larger_latents_are_drawn_noisier_where_the_scheduler_shifts_by_their_size(name):
    model = make("flux") if name == "flux" else tiny_adapter("stable_diffusion_3", use_dynamic_shifting=True)

    def draws(size):
        return model.sample_timesteps(100, torch.Generator().manual_seed(0), size) / 1000

    own, same, large = (draws(size) for size in (None, (4, 16), (32, 64)))
    assert torch.equal(own, same)
    mu = [shift_exponent(model.pipeline.scheduler, num_tokens) for num_tokens in (16, 16 * 32)]
    moved = torch.tensor(mu[1] - mu[0]).exp()
    torch.testing.assert_close(large, moved * own / (1 + (moved - 1) * own), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("tiny", [tiny_flux, tiny_stable_diffusion_3])
def test_flow_models_draw_shifted_logit_normal_timesteps(tiny, dynamic):
    pipeline = tiny()
    pipeline.scheduler = type(pipeline.scheduler)(shift=3.0, use_dynamic_shifting=dynamic)
    model = (Flux if tiny is tiny_flux else StableDiffusion3)(pipeline, RESOLUTION, ["to_q"])
    draws = model.sample_timesteps(20000, torch.Generator().manual_seed(0)) / 1000
    mu = shift_exponent(pipeline.scheduler, num_tokens=16)
    assert (mu is not None) == dynamic
    shift = torch.tensor(3.0) if mu is None else torch.tensor(mu).exp()
    unshifted = draws / (shift - (shift - 1) * draws)
    normal = unshifted.logit()
    assert normal.mean().item() == pytest.approx(0, abs=0.02)
    assert normal.std().item() == pytest.approx(1, abs=0.02)
    quantiles = torch.distributions.Normal(0.0, 1.0).cdf(normal.sort().values)
    assert (quantiles - torch.linspace(0, 1, 20000)).abs().max() < 1.63 / 20000**0.5  # Kolmogorov-Smirnov, 1 %


# ---- policy and reference


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_every_trained_weight_has_a_gradient(model, tuning):
    """Processes that share a gradient would wait for the others in vain, or not share it at all."""
    model.prepare_training(tuning, rank=2, alpha=2)
    model.predict(noise_for(model), torch.full((3,), 500.0), model.encode_prompts(PROMPTS)).square().mean().backward()
    named = model.denoiser.named_parameters()
    assert [name for name, parameter in named if parameter.requires_grad and parameter.grad is None] == []


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_the_reference_is_exactly_the_start_after_the_policy_moved(model, tuning):
    untouched = predictions(model)
    model.prepare_training(tuning, rank=4, alpha=8)
    model.make_reference()
    assert torch.equal(predictions(model), untouched)
    base = {name: value.clone() for name, value in model.denoiser.state_dict().items() if "lora" not in name}
    train_a_little(model)
    assert not torch.allclose(predictions(model), untouched)
    with model.reference():
        assert torch.equal(predictions(model), untouched)
    assert not torch.allclose(predictions(model), untouched)
    moved = [name for name, value in base.items() if not torch.equal(model.denoiser.state_dict()[name], value)]
    assert bool(moved) == (tuning == "full")


def test_a_reference_in_the_dtype_of_autocast_predicts_the_same_to_the_last_bit(model):
    model.prepare_training("full", rank=4, alpha=8)
    found = []
    for dtype in (None, torch.bfloat16):
        model.make_reference(dtype)
        with torch.autocast("cpu", torch.bfloat16), model.reference():
            found.append(predictions(model))
    assert torch.equal(*found)
    assert {p.dtype for p in model.reference_network.parameters()} == {torch.float32, torch.bfloat16}


def test_the_reference_ends_with_its_block_even_when_that_fails(model):
    model.prepare_training("lora", rank=4, alpha=8)
    train_a_little(model)
    trained = predictions(model)
    with pytest.raises(KeyError), model.reference():
        raise KeyError
    assert torch.equal(predictions(model), trained)
    assert all(parameter.requires_grad for name, parameter in model.denoiser.named_parameters() if "lora" in name)


def test_a_reference_that_nobody_asked_for_is_an_error(model):
    model.prepare_training("full", rank=0, alpha=0)
    with pytest.raises(RuntimeError, match="needs_reference"), model.reference():
        pass


def test_adapters_train_in_float32_on_a_half_precision_network():
    pipeline = tiny_stable_diffusion().to(torch.bfloat16)
    model = StableDiffusion(pipeline, RESOLUTION, ["to_q", "to_v"])
    model.prepare_training("lora", rank=2, alpha=2)
    trainable = {parameter.dtype for parameter in model.denoiser.parameters() if parameter.requires_grad}
    assert trainable == {torch.float32}
    assert model.dtype == torch.bfloat16
    train_a_little(model)


# ---- weights on disk


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_a_saved_policy_gives_the_same_predictions_here_and_in_plain_diffusers(model, kind, tuning, tmp_path):
    model.prepare_training(tuning, rank=4, alpha=16)
    train_a_little(model)
    trained = predictions(model)
    model.save_policy(tmp_path)
    fresh = make(kind)
    fresh.load_policy(tmp_path)
    assert torch.equal(predictions(fresh), trained)

    other = make(kind)
    if tuning == "lora":
        other.pipeline.load_lora_weights(tmp_path)
    else:
        network = type(other.denoiser).from_pretrained(tmp_path / other.denoiser_name)
        setattr(other.pipeline, other.denoiser_name, network)
        other.policy = network
    assert torch.equal(predictions(other), trained)


def test_half_precision_networks_load_adapters_bit_for_bit(tmp_path):
    def make_half() -> StableDiffusion:
        return StableDiffusion(tiny_stable_diffusion().to(torch.bfloat16), RESOLUTION, ["to_q", "to_v"])

    model = make_half()
    model.prepare_training("lora", rank=4, alpha=8)
    train_a_little(model)
    model.save_policy(tmp_path)
    fresh = make_half()
    fresh.load_policy(tmp_path)
    assert torch.equal(predictions(fresh), predictions(model))


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_loading_replaces_what_was_trained(tuning, tmp_path):
    model = make("flux")
    model.prepare_training(tuning, rank=4, alpha=8)
    train_a_little(model)
    saved = predictions(model)
    model.save_policy(tmp_path)
    train_a_little(model)
    model.load_policy(tmp_path)
    assert torch.equal(predictions(model), saved)


def test_training_on_top_of_a_loaded_adapter_starts_from_it(model, tmp_path):
    model.prepare_training("lora", rank=4, alpha=8)
    train_a_little(model)
    model.save_policy(tmp_path)
    start = predictions(model)
    model.load_policy(tmp_path)
    model.prepare_training("lora", rank=2, alpha=2)
    model.make_reference()
    torch.testing.assert_close(predictions(model), start, rtol=1e-4, atol=1e-5)
    train_a_little(model)
    with model.reference():
        torch.testing.assert_close(predictions(model), start, rtol=1e-4, atol=1e-5)


def test_a_folder_without_a_policy_is_refused(model, tmp_path):
    with pytest.raises(UserError, match=LORA_FILE):
        model.load_policy(tmp_path)


def test_adapters_are_saved_with_their_configuration_and_nothing_else(tmp_path):
    model = make("flux")
    model.prepare_training("lora", rank=4, alpha=16)
    model.save_policy(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [LORA_FILE]
    assert all(name.startswith("transformer.") for name in load_file(tmp_path / LORA_FILE))
    length = int.from_bytes((tmp_path / LORA_FILE).read_bytes()[:8], "little")
    metadata = json.loads((tmp_path / LORA_FILE).read_bytes()[8 : 8 + length])["__metadata__"]
    assert json.loads(metadata["lora_adapter_metadata"])["transformer.lora_alpha"] == 16


# ---- construction


def test_the_pipeline_of_another_family_is_refused():
    with pytest.raises(UserError, match="holds a FluxPipeline, but StableDiffusion works with"):
        StableDiffusion(tiny_flux(), RESOLUTION, ["to_q"])


def test_a_resolution_that_does_not_fit_is_refused():
    with pytest.raises(UserError, match="multiple of 8"):
        Flux(tiny_flux(), 36, ["to_q"])


def test_a_saved_tiny_pipeline_loads_and_computes_the_same(spread, tmp_path):
    spread.pipeline.save_pretrained(tmp_path)
    pipeline = load_pipeline(str(tmp_path), spread.pipeline_class)
    (settings,) = (tiny.settings for tiny in TINY.values() if tiny.adapter is type(spread))
    loaded = type(spread)(pipeline, RESOLUTION, ["to_q"], **settings)
    assert torch.equal(predictions(loaded), predictions(spread))
