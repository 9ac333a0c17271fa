"""What families of rectified flow have in common: Euler's steps, shifted noise levels, and training timesteps."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignbench.diffusion.flow_matching import check_flow_euler, flow_levels, logit_normal_timesteps, shift_exponent
from alignbench.diffusion.noise_levels import NoiseLevels
from alignbench.models.adapter import ModelAdapter
from alignbench.models.schedulers import FLOW, OF_FLOW
from alignbench.settings.section import Count


class FlowAdapter(ModelAdapter):
    """A model that predicts noise - latents and comes with FlowMatchEulerDiscreteScheduler.

    Args:
        max_sequence_length: tokens that the largest text encoder reads of a prompt, or that it is padded to; where a
            family puts a template around prompts, as its pipeline counts them.
    """

    schedulers = FLOW
    published_schedulers = OF_FLOW

    def __init__(self, *args: Any, max_sequence_length: Count = 512, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.max_sequence_length = max_sequence_length

    @property
    def text_settings(self) -> dict[str, Any]:
        return {"max_sequence_length": self.max_sequence_length}

    def generation_arguments(
        self,
        num_prompts: int,
        guidance_scale: float,
        negative_prompt: str | None = None,
        true_cfg_scale: float | None = None,
    ) -> dict[str, Any]:
        """Guide away from the empty prompt, which is the pipelines' default, or from the one that is given."""
        arguments = super().generation_arguments(num_prompts, guidance_scale, negative_prompt, true_cfg_scale)
        return arguments | {"max_sequence_length": self.max_sequence_length}

    def sampler_of(self, scheduler: Any) -> Any:
        """Return the scheduler itself, which takes Euler steps."""
        return check_flow_euler(scheduler)

    def shift_exponent(self, num_tokens: int, num_inference_steps: int | None = None) -> float | None:
        """Return mu, by which the scheduler shifts noise levels; None where it shifts every size alike.

        Args:
            num_tokens: tokens of the image.
            num_inference_steps: steps of the sampling; None for training timesteps.
        """
        return shift_exponent(self.pipeline.scheduler, num_tokens)

    def start_sigmas(self, num_inference_steps: int) -> Sequence[float] | None:
        """Return the sigmas that the family's pipeline gives its scheduler to shift: evenly spaced from 1 to 1/n.

        None leaves them to the scheduler, which begins and ends at its own.
        """
        return np.linspace(1.0, 1 / num_inference_steps, num_inference_steps).tolist()

    def noise_levels(self, num_inference_steps: int) -> NoiseLevels:
        """Return the levels of the family's pipeline: `start_sigmas`, shifted by the scheduler, then 0."""
        scheduler = copy.deepcopy(self.pipeline.scheduler)  # set_timesteps changes it
        mu = self.shift_exponent(self.num_tokens(), num_inference_steps)
        scheduler.set_timesteps(num_inference_steps, sigmas=self.start_sigmas(num_inference_steps), mu=mu)
        return flow_levels(scheduler)

    def sample_timesteps(
        self, batch_size: int, generator: torch.Generator, latent_size: Sequence[int] | None = None
    ) -> Tensor:
        """Draw logit-normal timesteps, as `logit_normal_timesteps` does."""
        mu = self.shift_exponent(self.num_tokens(latent_size))
        return logit_normal_timesteps(self.schedule, self.pipeline.scheduler, mu, batch_size, generator)
