"""A sampling gives the very images of a diffusers pipeline that is set up by hand, on tiny networks of all families."""

from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from alignbench.errors import UserError
from alignbench.generation import pipeline_sampler
from alignbench.generation.pipeline_sampler import Sampler
from alignbench.models.adapter import ModelAdapter
from alignbench.models.families.flux2_klein import Flux2Klein
from alignbench.models.find_families import FAMILIES
from alignbench.models.frame_latents import FrameLatents
from alignbench.models.schedulers import (
    DIFFUSION,
    FEW_STEP,
    FLOW,
    STOCHASTIC,
    check_scheduler,
    make_scheduler,
    step_generators,
)
from alignbench.models.tiny_random import RESOLUTION, TINY, tiny_adapter
from tests.families import EVERY, FIRST, marked
from tests.of_the_pipeline import levels_of

PROMPTS = ["a red circle", "a blue square left of a green cross"]
KEYS = [("p0", 0), ("p1", 0)]
DENOISING = [name for name, family in FAMILIES.items() if family.schedulers is DIFFUSION]
PAIRS = [
    pytest.param(name, scheduler, marks=[] if name in FIRST else pytest.mark.matrix)
    for name, family in FAMILIES.items()
    for scheduler in family.schedulers
]
NEGATIVE = [
    name
    for name, tiny in TINY.items()
    if "train_guidance_scale" not in tiny.settings and tiny.adapter.takes_negative_prompt
]
ARGUMENTS = {  # of a call at guidance 4, where they are others than `guidance_scale` and the settings of the adapter
    "qwen_image": {"true_cfg_scale": 4.0, **TINY["qwen_image"].settings},
    "qwen_image_21": {"true_cfg_scale": 4.0, "use_kv_cache": False},
    "wan": {"guidance_scale": 4.0, "num_frames": 1, "max_sequence_length": 32},
}


def noise_for(model: ModelAdapter, resolution: int = RESOLUTION) -> torch.Tensor:
    return torch.randn(2, *model.latent_shape_at(resolution), generator=torch.Generator().manual_seed(0))


def levels(pictures) -> np.ndarray:
    return np.stack([np.asarray(picture) for picture in pictures])


def by_hand(model: ModelAdapter, noise: torch.Tensor, **arguments: Any) -> np.ndarray:
    return levels_of(model, PROMPTS, noise, **arguments)


def are_same(model: ModelAdapter, ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Say whether images are equal, where pipelines scale codes by other operations but for some that round apart."""
    apart = np.abs(ours.astype(int) - theirs)
    return apart.max() <= 1 and apart.mean() < 1e-3 if isinstance(model, FrameLatents | Flux2Klein) else not apart.any()


# ---- schedulers


@pytest.mark.parametrize(("family", "name"), PAIRS)
def test_every_scheduler_gives_the_images_of_the_pipeline_that_has_it(family: str, name: str):
    model, other = tiny_adapter(family), tiny_adapter(family)
    noise = noise_for(model)
    own = model.pipeline.scheduler
    ours = levels(Sampler(model, 5, 3.0, scheduler=name)(KEYS, PROMPTS, noise))
    assert model.pipeline.scheduler is own

    pipeline, extra = other.pipeline, other.generation_arguments(2, 3.0)
    pipeline.scheduler = make_scheduler(name, pipeline.scheduler, other.schedulers)
    assert type(pipeline.scheduler).__name__ == f"{name}Scheduler"
    if generators := step_generators(pipeline.scheduler, noise):
        extra["generator"] = generators
    theirs = by_hand(other, noise, num_inference_steps=5, **extra)
    assert are_same(model, ours, theirs)
    assert ours.std() > 1


@pytest.mark.slow
@pytest.mark.matrix
@pytest.mark.parametrize("family", EVERY)
def test_all_schedulers_end_where_many_small_steps_do(family: str):
    """They solve one equation from one noise: a wrong start level, noise scale or shift would lead elsewhere."""
    # a random network that predicts epsilon makes an equation too steep for steps of any scheduler
    model = tiny_adapter(family, **({"prediction_type": "v_prediction"} if family in DENOISING else {}))
    noise = noise_for(model)

    def latents(num_steps: int, name: str | None = None) -> torch.Tensor:
        sampler = Sampler(model, num_steps, model.no_guidance_scale, name)
        return torch.cat([sampler._latents(KEYS[i : i + 1], PROMPTS[i : i + 1], noise[i : i + 1]) for i in range(2)])

    end = latents(300)
    for name in model.schedulers.keys() - STOCHASTIC:
        gap = (latents(60, name) - end).square().mean().sqrt() / end.std()
        assert gap < 0.05, name


@pytest.mark.parametrize("name", sorted(STOCHASTIC))
@pytest.mark.parametrize("family", DENOISING)
def test_noise_added_in_a_step_depends_on_the_initial_noise_and_on_nothing_else(family: str, name: str):
    model = tiny_adapter(family)
    noise, sampler = noise_for(model), Sampler(model, 4, 3.0, scheduler=name)
    together = levels(sampler(KEYS, PROMPTS, noise))
    alone = [levels(sampler(KEYS[i : i + 1], PROMPTS[i : i + 1], noise[i : i + 1]))[0] for i in (1, 0)]
    assert abs(together.astype(int) - np.stack(alone[::-1])).max() <= 1  # rounding to a level
    assert np.array_equal(together, levels(sampler(KEYS, PROMPTS, noise)))


@pytest.mark.parametrize("family", DENOISING)
def test_many_steps_begin_where_there_is_nothing_but_noise(family: str):
    """SDXL's leading spacing would let some schedulers begin 200 steps at timestep 801, with noise made for 999."""
    own = tiny_adapter(family).pipeline.scheduler
    for name in DIFFUSION.keys() - FEW_STEP:
        scheduler = make_scheduler(name, own, DIFFUSION)
        scheduler.set_timesteps(200)
        assert scheduler.timesteps[0] > 990, name


def test_the_published_recipes_are_what_their_names_stand_for():
    """Stable Diffusion 1.5 comes with PNDM, and SDXL with Euler: these are the schedulers of their repositories."""
    process = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    published: list[tuple[str, Any]] = [
        ("stable_diffusion", diffusers.PNDMScheduler(**process, skip_prk_steps=True, set_alpha_to_one=False)),
        (
            "stable_diffusion_xl",
            diffusers.EulerDiscreteScheduler(**process, timestep_spacing="leading", interpolation_type="linear"),
        ),
    ]
    for family, scheduler in published:
        model = tiny_adapter(family)
        model.pipeline.scheduler = scheduler
        theirs = by_hand(model, noise_for(model), num_inference_steps=6, guidance_scale=5.0)
        model = tiny_adapter(family)
        name = type(scheduler).__name__.removesuffix("Scheduler")
        assert np.array_equal(levels(Sampler(model, 6, 5.0, scheduler=name)(KEYS, PROMPTS, noise_for(model))), theirs)


def test_a_scheduler_that_does_not_fit_is_answered_with_those_that_do():
    with pytest.raises(UserError, match=r"EulerDiscrete does not sample model=flux; did you mean Flow.*UniPC"):
        check_scheduler("EulerDiscrete", FLOW, "flux")


# ---- decoding


def test_the_vae_decodes_large_batches_in_parts(monkeypatch):
    model = tiny_adapter("stable_diffusion")
    noise, sampler = torch.randn(3, *model.latent_shape), Sampler(model, 2, 3.0)
    keys, prompts = [(f"p{n}", 0) for n in range(3)], ["a circle", "a square", "a cross"]
    whole, sizes, decode = levels(sampler(keys, prompts, noise)), [], model.decode_latents
    monkeypatch.setattr(
        model, "decode_latents", lambda latents, vae: sizes.append(len(latents)) or decode(latents, vae)
    )
    monkeypatch.setattr(pipeline_sampler, "DECODED_PIXELS", 2 * RESOLUTION**2)
    parts = levels(sampler(keys, prompts, noise))
    assert sizes == [2, 1]
    assert abs(parts.astype(int) - whole).max() <= 1  # rounding to a level
    monkeypatch.setattr(pipeline_sampler, "DECODED_PIXELS", 1)  # an image is never divided
    sampler(keys, prompts, noise)
    assert sizes[2:] == [1, 1, 1]


def test_values_that_are_not_finite_give_black_images(monkeypatch):
    model = tiny_adapter("stable_diffusion")
    monkeypatch.setattr(model, "decode_latents", lambda latents, vae: torch.full((2, 3, 8, 8), torch.nan))
    assert not levels(Sampler(model, 1, 3.0)(KEYS, PROMPTS, noise_for(model))).any()


# ---- guidance


@pytest.mark.parametrize("family", marked(NEGATIVE))
def test_a_negative_prompt_is_that_of_the_pipeline(family: str):
    model = tiny_adapter(family)
    noise = noise_for(model)
    ours = levels(Sampler(model, 3, 4.0, negative_prompt="dull")(KEYS, PROMPTS, noise))
    arguments = {"num_inference_steps": 3, **ARGUMENTS.get(family, {"guidance_scale": 4.0, **TINY[family].settings})}
    assert are_same(model, ours, by_hand(model, noise, negative_prompt=["dull"] * 2, **arguments))
    assert not np.array_equal(ours, levels(Sampler(model, 3, 4.0)(KEYS, PROMPTS, noise)))


def test_sdxl_guided_away_from_an_empty_text_is_not_guided_away_from_nothing():
    """SDXL was trained to take zeros for no prompt; the features of an empty one are something else."""
    model = tiny_adapter("stable_diffusion_xl")
    noise = noise_for(model)
    empty, none = (levels(Sampler(model, 3, 4.0, negative_prompt=n)(KEYS, PROMPTS, noise)) for n in ("", None))
    assert not np.array_equal(empty, none)


def test_flux_has_true_guidance_beside_its_own_only_where_that_is_asked_for():
    model = tiny_adapter("flux")
    noise = noise_for(model)
    arguments = {"num_inference_steps": 3, "guidance_scale": 3.5, "max_sequence_length": 32}
    for negative in ("dull", None):
        ours = Sampler(model, 3, 3.5, negative_prompt=negative, true_cfg_scale=4.0)(KEYS, PROMPTS, noise)
        theirs = by_hand(model, noise, true_cfg_scale=4.0, negative_prompt=[negative or ""] * 2, **arguments)
        assert np.array_equal(levels(ours), theirs)
    with pytest.raises(UserError, match="negative_prompt has no effect on guidance that is an input"):
        Sampler(model, 3, 3.5, negative_prompt="dull")(KEYS, PROMPTS, noise)


def test_a_network_without_guidance_input_is_guided_by_either_scale():
    model = tiny_adapter("flux", guidance_embeds=False)
    noise = noise_for(model)
    ours = Sampler(model, 3, 3.5, negative_prompt="dull")(KEYS, PROMPTS, noise)
    arguments = {"num_inference_steps": 3, "max_sequence_length": 32}
    theirs = by_hand(model, noise, true_cfg_scale=3.5, negative_prompt=["dull"] * 2, **arguments)
    assert np.array_equal(levels(ours), theirs)
    ours = Sampler(model, 3, 1.0, negative_prompt="dull", true_cfg_scale=3.5)(KEYS, PROMPTS, noise)
    assert np.array_equal(levels(ours), theirs)
    one = tiny_adapter("stable_diffusion")
    with pytest.raises(UserError, match="which this one has not; set"):
        Sampler(one, 3, 3.5, true_cfg_scale=4.0)(KEYS, PROMPTS, noise_for(one))


# ---- size


@pytest.mark.parametrize("family", EVERY)
def test_another_size_is_that_of_a_model_of_that_size(family: str):
    model = tiny_adapter(family)
    size = RESOLUTION + max(16, model.side_multiple)
    sampler = Sampler(model, 3, 3.0, resolution=size)
    noise = noise_for(model, size)
    assert sampler.latent_shape == noise.shape[1:]
    pictures = sampler(KEYS, PROMPTS, noise)
    assert pictures[0].shape == (size, size, 3)
    assert model.resolution == RESOLUTION
    theirs = by_hand(model, noise, num_inference_steps=3, **model.generation_arguments(2, 3.0))
    assert are_same(model, levels(pictures), theirs)


def test_a_size_that_does_not_fit_is_refused():
    with pytest.raises(UserError, match=r"sampling.resolution=36 does not fit the model; choose a multiple of 8"):
        Sampler(tiny_adapter("flux"), 3, 3.0, resolution=36)
