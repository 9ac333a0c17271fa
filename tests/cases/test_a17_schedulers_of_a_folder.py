"""A17: whatever scheduler a model folder comes with, it is sampled rightly and told, or refused in one sentence."""

import inspect
import json

import diffusers
import pytest
import torch

from alignbench.configuration.checks import check
from alignbench.configuration.compose import composed
from alignbench.errors import UserError
from alignbench.generation.pipeline_sampler import Sampler
from alignbench.models.families.flux import Flux
from alignbench.models.families.stable_diffusion import StableDiffusion
from alignbench.models.families.stable_diffusion_xl import StableDiffusionXL
from alignbench.models.find_families import FAMILIES
from alignbench.models.schedulers import FEW_STEP, OF_DIFFUSION, OF_FLOW, scheduler_name
from alignbench.models.tiny_random import RESOLUTION, tiny_adapter
from alignbench.models.tiny_random.flux import tiny_flux
from alignbench.models.tiny_random.stable_diffusion import tiny_stable_diffusion
from alignbench.models.tiny_random.stable_diffusion_xl import tiny_stable_diffusion_xl

PROCESS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
PROMPTS = ["a red circle", "a blue square"]


def importable():
    """Return the schedulers of diffusers that can be made here; some need another package."""
    found = {}
    for name in dir(diffusers):
        if name.endswith("Scheduler") and name != "FlaxScheduler":
            try:
                kind = getattr(diffusers, name)
                parameters = inspect.signature(kind.__init__).parameters
                found[scheduler_name(name)] = kind(**{key: PROCESS[key] for key in PROCESS if key in parameters})
            except (ImportError, TypeError, ValueError):  # needs torchsde, or belongs to another kind of model
                continue
    return found


SCHEDULERS = importable()


def stable_diffusion(scheduler, kind=StableDiffusion, pipeline=None):
    pipeline = pipeline or tiny_stable_diffusion()
    pipeline.scheduler = scheduler
    return kind(pipeline, RESOLUTION, ["to_q"])


def noise_for(model):
    return torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(0))


def sampled(model, num_steps):
    noise = noise_for(model)
    return model.sample(noise, model.encode_prompts(PROMPTS), model.noise_levels(num_steps)).latents


def of_the_pipeline(pipeline, noise, num_steps):
    return pipeline(
        PROMPTS, latents=noise, num_inference_steps=num_steps, guidance_scale=1.0, height=RESOLUTION, width=RESOLUTION,
        output_type="latent",
    ).images  # fmt: skip


def refusal(act) -> str:
    with pytest.raises(UserError) as refused:
        act()
    assert "\n" not in str(refused.value)
    return str(refused.value)


# ---- every class


def test_all_known_kinds_of_schedulers_are_tried():
    assert {"EDMEuler", "EDMDPMSolverMultistep", "LCM", "TCD", "EulerAncestralDiscrete", "DDPM"} <= SCHEDULERS.keys()
    assert len(SCHEDULERS) > 30


@pytest.mark.parametrize("name", sorted(SCHEDULERS))
def test_a_folder_of_stable_diffusion_is_sampled_on_its_noise_process_or_refused_by_class(name):
    scheduler = SCHEDULERS[name]
    if name not in OF_DIFFUSION:
        assert refusal(lambda: stable_diffusion(scheduler)).startswith(
            f"the weights come with a {name}Scheduler, whose"
        )
        return
    model = stable_diffusion(scheduler)
    table = diffusers.DDPMScheduler(**PROCESS).alphas_cumprod  # the one that was asked for, not DDIM's own default
    torch.testing.assert_close(model.pipeline.scheduler.alphas_cumprod, table)
    if name in FEW_STEP:
        return
    assert name == "DDIM" or f"DDIM in place of the {name}" in model.remarks[0]
    for num_steps in (4, 7):
        theirs = of_the_pipeline(model.pipeline, noise_for(model), num_steps)
        torch.testing.assert_close(sampled(model, num_steps), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", sorted(SCHEDULERS))
def test_a_folder_of_flux_is_sampled_by_flow_euler_or_refused_by_class(name):
    pipeline = tiny_flux()
    pipeline.scheduler = SCHEDULERS[name]
    if name not in OF_FLOW:
        assert f"the weights come with a {name}Scheduler" in refusal(lambda: Flux(pipeline, RESOLUTION, ["to_q"]))


def test_every_family_says_what_its_weights_may_come_with():
    of_solvers = {OF_FLOW | {"DPMSolverMultistep"}, OF_FLOW | {"UniPCMultistep"}}
    assert {family.published_schedulers for family in FAMILIES.values()} == {OF_DIFFUSION, OF_FLOW, *of_solvers}


# ---- the sampler that SDXL folders are published with


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("num_steps", [4, 7, 30])
def test_sdxl_with_euler_of_any_spacing_takes_the_steps_of_euler(spacing, num_steps):
    euler = diffusers.EulerDiscreteScheduler(**PROCESS, steps_offset=1, timestep_spacing=spacing)
    pipeline = tiny_stable_diffusion_xl()
    pipeline.scheduler = euler
    model = stable_diffusion(euler, StableDiffusionXL, tiny_stable_diffusion_xl())
    ours = sampled(model, num_steps)
    theirs = of_the_pipeline(pipeline, noise_for(model), num_steps)
    # Euler visits fractions of a timestep with `linspace`, which DDIM rounds, and starts at 1.002 times the noise with
    # `trailing`, as if there were some image in it
    gap = (ours - theirs).square().mean().sqrt() / theirs.std()
    assert gap < {"leading": 1e-4, "trailing": 3e-3, "linspace": 0.05}[spacing]


# ---- weights that were distilled for their sampler


@pytest.mark.parametrize("name", sorted(FEW_STEP))
def test_few_step_weights_are_sampled_by_their_own_scheduler_or_not_at_all(name):
    model = stable_diffusion(SCHEDULERS[name])
    noise = noise_for(model)
    asked = rf"for whose few steps they were distilled.*add sampling.scheduler={name}$"
    for act in (lambda: Sampler(model, 4, 1.0), lambda: model.noise_levels(4)):
        with pytest.raises(UserError, match=asked):
            act()
    pictures = Sampler(model, 4, 1.0, scheduler=name)([("p0", 0), ("p1", 0)], PROMPTS, noise)
    assert len(pictures) == 2
    assert "choose 4 to 8, at most 50" in refusal(lambda: Sampler(model, 60, 1.0, scheduler=name))


def test_a_unet_that_takes_guidance_as_an_input_is_refused():
    pipeline = tiny_stable_diffusion()
    pipeline.unet.register_to_config(time_cond_proj_dim=8)
    assert "takes guidance as an input (time_cond_proj_dim=8)" in refusal(
        lambda: StableDiffusion(pipeline, RESOLUTION, ["to_q"])
    )


@pytest.mark.parametrize("name", ["EDMEuler", "LCM"])
def test_a_folder_is_refused_before_anything_is_loaded(name, tmp_path):
    tiny_stable_diffusion().save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps(index | {"scheduler": ["diffusers", f"{name}Scheduler"]}))
    given = ["method=base", "model=sd15", f"model.pretrained_model_name_or_path={tmp_path}", "evaluators=shapes"]
    given += ["model.scheduler=null", "prompts=shapes"]
    assert f"the weights come with a {name}Scheduler" in refusal(lambda: check(composed(given)))
    if name in FEW_STEP:
        check(composed([*given, f"sampling.scheduler={name}"]))


# ---- configurations of a scheduler


def ddim(**values):
    return diffusers.DDIMScheduler(**PROCESS, **values)


@pytest.mark.parametrize(
    ("scheduler", "told"),
    [
        (ddim(rescale_betas_zero_snr=True), "rescale_betas_zero_snr and prediction_type=epsilon"),
        (ddim(prediction_type="sample"), "prediction_type=sample"),
        (diffusers.DDPMScheduler(beta_schedule="sigmoid"), "beta_schedule=sigmoid"),
        (diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True), "flow_prediction"),
    ],
)
def test_a_scheduler_that_ddim_cannot_follow_is_refused_in_one_sentence(scheduler, told):
    assert told in refusal(lambda: stable_diffusion(scheduler))


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_zero_snr_starts_where_there_is_noise_alone(spacing):
    scheduler = ddim(prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing=spacing)
    model = stable_diffusion(scheduler, pipeline=tiny_stable_diffusion(prediction_type="v_prediction"))
    assert model.noise_levels(4).level.alpha[0] == pytest.approx(0, abs=1e-3)
    assert sampled(model, 4).isfinite().all()
    assert spacing == "trailing" or "timestep_spacing=trailing" in " ".join(model.remarks)


@pytest.mark.parametrize("name", ["stochastic_sampling", "invert_sigmas"])
def test_a_flow_scheduler_that_takes_other_steps_is_refused(name):
    pipeline = tiny_flux()
    pipeline.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**{name: True})
    assert name in refusal(lambda: Flux(pipeline, RESOLUTION, ["to_q"]))


def test_one_step_of_a_scheduler_that_ends_above_clean_is_refused():
    pipeline = tiny_flux()
    pipeline.scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_config(
        pipeline.scheduler.config, shift_terminal=0.02
    )
    model = Flux(pipeline, RESOLUTION, ["to_q"], 3.5)
    assert model.noise_levels(2).level.sigma.isfinite().all()
    assert "shift_terminal=0.02; take at least 2" in refusal(lambda: model.noise_levels(1))


# ---- what the head of a run says


def test_the_head_of_a_run_names_a_sampler_that_was_replaced_and_how_to_have_the_own_one():
    (told,) = stable_diffusion(SCHEDULERS["EulerAncestralDiscrete"]).remarks
    assert told.startswith("sampler     DDIM in place of the EulerAncestralDiscrete that the weights come with")
    assert "sampling.scheduler=EulerAncestralDiscrete" in told
    assert not tiny_adapter("stable_diffusion").remarks
    assert not tiny_adapter("flux").remarks
