"""DDIM, the one sampler of the Stable Diffusion families up to XL, and the levels that it visits."""

from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler

from alignbench.diffusion.noise_levels import NoiseLevels
from alignbench.diffusion.schedule import Level, NoiseSchedule


def as_ddim(scheduler: Any, **changes: Any) -> DDIMScheduler:
    """Return DDIM on the noise process of whatever sampler a checkpoint came with.

    Args:
        changes: further values of its configuration.
    """
    # latents are not confined to -1..1, and DDIM clips by default where the old configuration does not say
    ddim: Any = DDIMScheduler.from_config(scheduler.config, clip_sample=False, thresholding=False, **changes)
    return ddim


def ddim_ladder(scheduler: Any, schedule: NoiseSchedule, num_inference_steps: int) -> NoiseLevels:
    """Return the levels that DDIM visits.

    Raises:
        ValueError: if DDIM lands at other timesteps than it visits, as it does with some spacings.
    """
    scheduler = DDIMScheduler.from_config(scheduler.config)  # set_timesteps changes it
    scheduler.set_timesteps(num_inference_steps)
    timesteps = scheduler.timesteps
    landings = timesteps - scheduler.config.num_train_timesteps // num_inference_steps
    if not torch.equal(landings[:-1], timesteps[1:]):
        raise ValueError(
            f"DDIM with timestep_spacing={scheduler.config.timestep_spacing} and {num_inference_steps} steps lands "
            "beside the timesteps it visits; choose a num_inference_steps that divides "
            f"{scheduler.config.num_train_timesteps}, or a model with leading spacing"
        )
    last = int(landings[-1])
    end = (scheduler.alphas_cumprod[last] if last >= 0 else scheduler.final_alpha_cumprod).double()
    visited = schedule.level(timesteps)
    return NoiseLevels(
        timesteps.double(),
        Level(
            torch.cat([visited.alpha, end.sqrt()[None]]),
            torch.cat([visited.sigma, (1 - end).sqrt()[None]]),
        ),
    )
