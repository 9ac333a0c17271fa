"""DDIM, the one sampler of the Stable Diffusion families up to XL, and the levels that it visits."""

from typing import Any

import torch
from diffusers.schedulers import scheduling_ddim
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from torch import Tensor

from alignbench.diffusion.noise_levels import NoiseLevels
from alignbench.diffusion.schedule import Level, NoiseSchedule
from alignbench.errors import UserError

# what a configuration says of the noise process and of the timesteps that are visited
PROCESS = (
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type",
    "rescale_betas_zero_snr", "timestep_spacing", "steps_offset",
)  # fmt: skip
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")


class DDIMScheduler(scheduling_ddim.DDIMScheduler):
    """The DDIM of diffusers, but that each step lands at the timestep that is visited next.

    diffusers' own lands a fixed number of timesteps below each. That is beside the next one for `linspace`, and for
    `trailing` with a number of steps that does not divide 1000.
    """

    __module__ = scheduling_ddim.__name__  # a saved pipeline names the class of diffusers, which everyone can load

    def step(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        eta: float = 0.0,
        generator: Any = None,
        return_dict: bool = True,
    ) -> DDIMSchedulerOutput | tuple[Tensor, ...]:
        """Return the latents at the next timestep; arguments are those of diffusers that its pipelines give."""
        assert self.num_inference_steps is not None
        number = int((self.timesteps == timestep).nonzero()[0])
        last = number + 1 == len(self.timesteps)
        landing = int(timestep) - len(self.alphas_cumprod) // self.num_inference_steps
        if landing < 0 if last else landing == int(self.timesteps[number + 1]):
            return super().step(model_output, timestep, sample, eta=eta, generator=generator, return_dict=return_dict)
        if eta:
            raise UserError("DDIM with fresh noise (eta) is not supported with this timestep_spacing; leave eta at 0")
        schedule = NoiseSchedule.from_scheduler(self)
        level = ddim_levels(self, schedule).level
        moved = schedule.step(sample, model_output, level[number], level[number + 1]).to(sample.dtype)
        return DDIMSchedulerOutput(prev_sample=moved) if return_dict else (moved,)


def as_ddim(scheduler: Any, **changes: Any) -> DDIMScheduler:
    """Return DDIM on the noise process of whatever sampler a checkpoint came with.

    Args:
        scheduler: one with a table of betas, whatever its steps are.
        changes: further values of its configuration.

    Raises:
        UserError: if its noise process cannot be sampled by DDIM.
    """
    config, name = scheduler.config, type(scheduler).__name__
    if config.get("trained_betas") is None and config.beta_schedule not in BETA_SCHEDULES:
        raise UserError(
            f"the weights come with a {name} of beta_schedule={config.beta_schedule}, which DDIM does not have; "
            f"available: {', '.join(BETA_SCHEDULES)}"
        )
    # every value by name: what a class has by default, another has by another default
    process = {key: config[key] for key in PROCESS if key in config}
    if process.get("rescale_betas_zero_snr") and process["prediction_type"] == "epsilon":
        raise UserError(
            f"the weights come with a {name} that has rescale_betas_zero_snr and prediction_type=epsilon: where there "
            "is noise alone, a prediction of the noise says nothing of the image; correct scheduler_config.json, whose "
            "prediction_type may have to be v_prediction"
        )
    if process.get("rescale_betas_zero_snr"):
        process["timestep_spacing"] = "trailing"  # others begin below the level of noise alone, with noise alone
    # latents are not confined to -1..1, and DDIM clips by default where the old configuration does not say
    ddim: Any = DDIMScheduler.from_config(config, clip_sample=False, thresholding=False, **process | changes)
    return ddim


def check_timesteps(scheduler: Any, num_inference_steps: int) -> None:
    """Refuse more steps than a scheduler with discrete timesteps can visit.

    Raises:
        UserError: with the largest number.
    """
    config = scheduler.config
    offset = config.get("steps_offset", 0) if config.get("timestep_spacing") == "leading" else 0
    most = config.num_train_timesteps - offset
    if num_inference_steps > most:
        raise UserError(
            f"{num_inference_steps} sampling steps are too many for {type(scheduler).__name__}, which has {most} "
            "timesteps to visit; choose fewer"
        )


def ddim_levels(scheduler: Any, schedule: NoiseSchedule) -> NoiseLevels:
    """Return the levels that a DDIM visits whose timesteps are set."""
    visited, end = schedule.level(scheduler.timesteps), scheduler.final_alpha_cumprod.double()
    alpha = torch.cat([visited.alpha, end.sqrt()[None].to(visited.alpha)])
    sigma = torch.cat([visited.sigma, (1 - end).sqrt()[None].to(visited.sigma)])
    return NoiseLevels(scheduler.timesteps.double(), Level(alpha, sigma))


def ddim_ladder(scheduler: Any, schedule: NoiseSchedule, num_inference_steps: int) -> NoiseLevels:
    """Return the levels that DDIM visits in so many steps.

    Raises:
        UserError: the noise process has fewer timesteps.
    """
    check_timesteps(scheduler, num_inference_steps)
    scheduler = DDIMScheduler.from_config(scheduler.config)  # set_timesteps changes it
    scheduler.set_timesteps(num_inference_steps)
    return ddim_levels(scheduler, schedule)
