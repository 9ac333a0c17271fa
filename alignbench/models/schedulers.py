"""Which schedulers of diffusers sample which family, and how each is set so that it starts from unit Gaussian noise.

All are deterministic: an image depends on its initial noise alone, and never on what else is in the batch. With enough
steps all of one kind end at the same image, that of the probability-flow ODE; a test holds them to it.
"""

from collections.abc import Mapping
from typing import Any

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
}
_FLOW_SIGMAS = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
FLOW: Mapping[str, Mapping[str, Any]] = {
    "FlowMatchEulerDiscrete": {},
    "DPMSolverMultistep": _FLOW_SIGMAS,
    "UniPCMultistep": _FLOW_SIGMAS,
}


def check_scheduler(name: str, known: Mapping[str, Mapping[str, Any]], model: str) -> None:
    """Refuse a scheduler that does not fit a family.

    Args:
        known: `DIFFUSION` or `FLOW`.
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

    settings = dict(known[name])
    if settings.get("use_flow_sigmas"):  # resolution-dependent shifting goes by the name it has in `own`
        settings |= {"flow_shift": own.config.shift, "use_dynamic_shifting": own.config.use_dynamic_shifting}
    return getattr(diffusers, f"{name}Scheduler").from_config(own.config, **settings)
