"""Which schedulers of diffusers sample which family, and how each is set so that it starts from unit Gaussian noise.

An image depends on its initial noise alone, and never on what else is in the batch. With enough steps all deterministic
ones of a kind end at the same image, that of the probability-flow ODE; a test holds them to it. The others add noise in
each step, whose seed is made of the initial noise.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from alignbench.context import keyed_generator
from alignbench.diffusion.ddim import as_ddim, check_timesteps
from alignbench.errors import UserError, did_you_mean

# Names are those of diffusers without the word Scheduler. What is not set here comes from the checkpoint: its noise
# process, its prediction type and, for the first group, its timestep spacing.
DIFFUSION: Mapping[str, Mapping[str, Any]] = {
    "DDIM": {"clip_sample": False, "thresholding": False},
    "PNDM": {"skip_prk_steps": True},
    "EulerDiscrete": {},
    "HeunDiscrete": {},
    # with `leading`, SDXL's spacing, these would begin below the top level, where unit noise is too much of it
    "DPMSolverMultistep": {"timestep_spacing": "linspace"},
    "DEISMultistep": {"timestep_spacing": "linspace"},
    "UniPCMultistep": {"timestep_spacing": "linspace"},
    # these add noise in each step
    "EulerAncestralDiscrete": {},
    "LCM": {},
    "TCD": {},
}
_FLOW_SIGMAS = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
FLOW: Mapping[str, Mapping[str, Any]] = {
    "FlowMatchEulerDiscrete": {},
    "DPMSolverMultistep": _FLOW_SIGMAS,
    "UniPCMultistep": _FLOW_SIGMAS,
}
# for pipelines that give their scheduler the levels whatever it is, which the others do not take
FLOW_EULER: Mapping[str, Mapping[str, Any]] = {"FlowMatchEulerDiscrete": {}}

STOCHASTIC = {"EulerAncestralDiscrete", "LCM", "TCD"}

# What weights may come with, by the same names. DDIM samples the noise process of all of the first group.
FEW_STEP = {"LCM", "TCD"}  # whose weights were distilled for it and make other images, or none, by DDIM
OF_DIFFUSION = frozenset(DIFFUSION) | {
    "DDIMParallel", "DDPM", "DDPMParallel", "LMSDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete",
    "DPMSolverSinglestep", "SASolver",
}  # fmt: skip
OF_FLOW = frozenset({"FlowMatchEulerDiscrete"})


def scheduler_name(class_name: str) -> str:
    """Return the name of a scheduler's class without the word Scheduler."""
    return class_name.removesuffix("Scheduler")


def check_published(name: str, published: Collection[str], pipeline: str) -> None:
    """Refuse weights that the family's sampler would sample on another noise process than their scheduler.

    Args:
        name: that of the scheduler that the weights come with.
        published: names of those that fit.
        pipeline: the class of the pipeline, for the sentence.

    Raises:
        UserError: with those that do.
    """
    if name not in published:
        raise UserError(
            f"the weights come with a {name}Scheduler, whose noise process no sampler of a {pipeline} has here; "
            f"expected one of {', '.join(sorted(published))}"
        )


def check_few_step(published: str, chosen: str | None) -> None:
    """Refuse to sample weights that were distilled for a sampler by another that nobody asked for.

    Args:
        published: name of the scheduler that the weights come with.
        chosen: name of the one that was asked for; None for none.

    Raises:
        UserError: naming what to type.
    """
    if published in FEW_STEP and chosen is None:
        raise UserError(
            f"the weights come with a {published}Scheduler, for whose few steps they were distilled, and another "
            f"would show another model; add sampling.scheduler={published}"
        )


def check_num_steps(scheduler: Any, num_inference_steps: int) -> None:
    """Refuse more steps than a scheduler of distilled weights knows, or than there are timesteps.

    Raises:
        UserError: with the largest number.
    """
    most = scheduler.config.get("original_inference_steps")
    if scheduler_name(type(scheduler).__name__) in FEW_STEP and num_inference_steps > most:
        raise UserError(
            f"sampling.num_inference_steps={num_inference_steps} is too many for sampling.scheduler="
            f"{scheduler_name(type(scheduler).__name__)}, which knows {most}; choose 4 to 8, at most {most}"
        )
    if scheduler.config.get("timestep_spacing") is not None and not scheduler.config.get("use_flow_sigmas"):
        check_timesteps(scheduler, num_inference_steps)


def step_generators(scheduler: Any, noise: Tensor) -> list[torch.Generator] | None:
    """Return the generators of the noise that a scheduler adds, one an image; None where it adds none.

    Args:
        noise: what the images start from, [B, C, h, w]; images that start alike go on alike.
    """
    stochastic = scheduler_name(type(scheduler).__name__) in STOCHASTIC
    if not stochastic and not str(scheduler.config.get("algorithm_type")).startswith("sde"):
        return None
    rows: Sequence[Tensor] = noise.float().cpu().contiguous().unbind()
    return [keyed_generator("steps", hashlib.sha256(row.numpy().tobytes()).hexdigest()) for row in rows]


def check_scheduler(name: str, known: Mapping[str, Mapping[str, Any]], model: str) -> None:
    """Refuse a scheduler that does not fit a family.

    Args:
        known: `DIFFUSION`, `FLOW` or `FLOW_EULER`.
        model: the model's name, for the sentence.

    Raises:
        UserError: with those that do.
    """
    if name not in known:
        raise UserError(f"sampling.scheduler={name} does not sample model={model};{did_you_mean(name, list(known))}")


def make_scheduler(name: str, own: Any, known: Mapping[str, Mapping[str, Any]]) -> Any:
    """Return a scheduler on the noise process of another.

    Args:
        name: a key of `known`.
        own: the model's scheduler, which is left as it is.
        known: `DIFFUSION` or `FLOW`.
    """
    import diffusers

    if name == "DDIM":
        return as_ddim(own)
    settings = dict(known[name])
    if settings.get("use_flow_sigmas"):  # resolution-dependent shifting goes by the name it has in `own`
        settings |= {"flow_shift": own.config.shift, "use_dynamic_shifting": own.config.use_dynamic_shifting}
    return getattr(diffusers, f"{name}Scheduler").from_config(own.config, **settings)
