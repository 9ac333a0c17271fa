"""Stable Diffusion 1.x: a UNet with one CLIP text encoder, discrete timesteps and true classifier-free guidance."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from alignbench.batch import Conditioning
from alignbench.models.adapter import Ladder, ModelAdapter
from alignbench.schedule import Level


class StableDiffusion(ModelAdapter):
    """Stable Diffusion 1.x, epsilon or v_prediction.

    Whatever sampler the pipeline came with is replaced by DDIM on the same noise process, so that `generate` and
    `sample` are one sampler.
    """

    pipeline_class = "StableDiffusionPipeline"
    denoiser_name = "unet"
    frozen_parts = ("vae", "text_encoder")

    def __init__(self, pipeline: Any, *args: Any, **kwargs: Any) -> None:
        # latents are not confined to -1..1, and DDIM clips by default where the old configuration does not say
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False, thresholding=False)
        super().__init__(pipeline, *args, **kwargs)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Return the last hidden states of the CLIP text encoder."""
        embeds, _ = self.pipeline.encode_prompt(
            list(prompts), self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return Conditioning(embeds)

    def ladder(self, num_inference_steps: int) -> Ladder:
        """Return the levels that DDIM visits.

        Raises:
            ValueError: if DDIM lands at other timesteps than it visits, as it does with some spacings.
        """
        scheduler: Any = DDIMScheduler.from_config(self.pipeline.scheduler.config)
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
        end = scheduler.alphas_cumprod[last] if last >= 0 else scheduler.final_alpha_cumprod
        visited = self.schedule.level(timesteps)
        return Ladder(
            timesteps.double(),
            Level(
                torch.cat([visited.alpha, end.double().sqrt()[None]]),
                torch.cat([visited.sigma, (1 - end.double()).sqrt()[None]]),
            ),
        )

    def sample_timesteps(self, batch_size: int, generator: torch.Generator) -> Tensor:
        """Draw integer timesteps uniformly."""
        return torch.randint(self.schedule.num_train_timesteps, (batch_size,), generator=generator).double()

    def forward(
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning, guidance: Tensor | None
    ) -> Tensor:
        """Call the UNet."""
        return self.policy(
            noisy_latents.to(self.dtype),
            timesteps,
            encoder_hidden_states=conditioning.prompt_embeds.to(self.dtype),
            return_dict=False,
        )[0]
