"""How flow-matching families shift noise levels towards noise, in sampling and in training alike."""

from typing import Any, overload

import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from alignbench.diffusion.noise_levels import NoiseLevels
from alignbench.diffusion.schedule import Level, NoiseSchedule
from alignbench.errors import UserError


@overload
def shift_time(u: float, shift: float) -> float: ...
@overload
def shift_time(u: Tensor, shift: float) -> Tensor: ...
def shift_time(u: float | Tensor, shift: float) -> float | Tensor:
    """Return shift * u / (1 + (shift - 1) u); 0 and 1 stay, a shift of 1 leaves all as it is."""
    return shift * u / (1 + (shift - 1) * u)


def shifted_levels(schedule: NoiseSchedule, num_inference_steps: int, shift: float) -> NoiseLevels:
    """Return the levels of a sampling with a fixed shift: sigmas evenly spaced from 1 to 0, shifted towards noise.

    Raises:
        UserError: if the schedule is not one of flow matching, which alone has sigmas that can be shifted.
    """
    if schedule.prediction_type != "velocity":
        raise UserError(
            f"method.rollout_shift={shift:g} shifts the noise levels of a flow model, and this one predicts "
            f"{schedule.prediction_type}; set method.rollout_shift=null"
        )
    sigma = shift_time(torch.linspace(1, 0, num_inference_steps + 1, dtype=torch.float64), shift)
    return NoiseLevels(schedule.timesteps_at(sigma[:-1]), Level(1 - sigma, sigma))


def shift_exponent(scheduler: Any, num_tokens: int) -> float | None:
    """Return mu, the strength of resolution-dependent shifting; None where the scheduler shifts every size alike.

    Args:
        num_tokens: tokens of the image that the network sees.
    """
    config = scheduler.config
    if not config.use_dynamic_shifting:
        return None
    return calculate_shift(
        num_tokens, config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift
    )


def check_flow_euler(scheduler: Any) -> Any:
    """Return a flow-matching scheduler whose steps are those of `NoiseSchedule.step`, and refuse others.

    Raises:
        UserError: if it adds noise in its steps, or counts noise levels from the other end.
    """
    for name in ("stochastic_sampling", "invert_sigmas"):
        if scheduler.config.get(name):
            raise UserError(
                f"the weights come with a {type(scheduler).__name__} that has {name}, which is not supported; set it "
                "to false in their scheduler_config.json"
            )
    return scheduler


def as_flow_euler(scheduler: Any) -> Any:
    """Return the scheduler that takes Euler steps on the noise levels of another, FlowMatchEulerDiscreteScheduler.

    Args:
        scheduler: one for diffusion that is set to the sigmas of flow matching (`use_flow_sigmas`), as the multistep
            ones of diffusers can be, or one for flow matching itself.

    Raises:
        UserError: if it is not set so, or `check_flow_euler` refuses it.
    """
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        return check_flow_euler(scheduler)
    config = scheduler.config
    if not config.get("use_flow_sigmas") or config.get("prediction_type") != "flow_prediction":
        raise UserError(
            f"the weights come with a {type(scheduler).__name__} without use_flow_sigmas and "
            "prediction_type=flow_prediction, which is no scheduler of flow matching; set both in their "
            "scheduler_config.json"
        )
    # what only the other scheduler has is kept in the configuration, so that `make_scheduler` gives it back
    return check_flow_euler(FlowMatchEulerDiscreteScheduler.from_config(config, shift=config.flow_shift))


def flow_levels(scheduler: Any) -> NoiseLevels:
    """Return the levels of a flow-matching scheduler whose timesteps are set.

    Raises:
        UserError: if one of them is not finite, as with one step and a `shift_terminal`.
    """
    sigma = scheduler.sigmas.double()
    if not sigma.isfinite().all():
        raise UserError(
            f"num_inference_steps={len(sigma) - 1} is too few for the weights' scheduler, whose shift_terminal="
            f"{scheduler.config.get('shift_terminal')}; take at least 2"
        )
    return NoiseLevels(scheduler.timesteps.double(), Level(1 - sigma, sigma))


def logit_normal_timesteps(
    schedule: NoiseSchedule, scheduler: Any, mu: float | None, batch_size: int, generator: torch.Generator
) -> Tensor:
    """Draw continuous timesteps, [B], float64: logit-normal(0, 1) sigmas under the shift that sampling uses.

    Args:
        mu: strength of a shift that depends on the size, as `shift_exponent` returns it; None for the fixed shift.

    Source: sigmas as in Esser et al. 2024 (SD3), section 3.1; the shift is the scheduler's own.
    """
    sigma = torch.randn(batch_size, generator=generator, dtype=torch.float64).sigmoid()
    if mu is not None:
        return schedule.timesteps_at(scheduler.time_shift(mu, 1.0, sigma))
    return schedule.timesteps_at(shift_time(sigma, scheduler.shift))
