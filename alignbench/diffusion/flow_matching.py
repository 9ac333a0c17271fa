"""How flow-matching families shift noise levels towards noise, in sampling and in training alike."""

from typing import Any

import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from torch import Tensor

from alignbench.diffusion.schedule import NoiseSchedule


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


def logit_normal_timesteps(
    schedule: NoiseSchedule, scheduler: Any, num_tokens: int, batch_size: int, generator: torch.Generator
) -> Tensor:
    """Draw continuous timesteps, [B], float64: logit-normal(0, 1) sigmas under the shift that sampling uses.

    Source: sigmas as in Esser et al. 2024 (SD3), section 3.1; the shift is the scheduler's own.
    """
    sigma = torch.randn(batch_size, generator=generator, dtype=torch.float64).sigmoid()
    mu = shift_exponent(scheduler, num_tokens)
    if mu is not None:
        return schedule.timesteps_at(scheduler.time_shift(mu, 1.0, sigma))
    return schedule.timesteps_at(scheduler.shift * sigma / (1 + (scheduler.shift - 1) * sigma))
