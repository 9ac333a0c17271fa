"""Stable Diffusion 1.x: a UNet with one CLIP text encoder, discrete timesteps and true classifier-free guidance."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from alignbench.batch import Conditioning
from alignbench.diffusion.ddim import DDIMScheduler, as_ddim, ddim_ladder
from alignbench.diffusion.noise_levels import NoiseLevels
from alignbench.errors import UserError
from alignbench.models.adapter import CLIP_TOKENS, ModelAdapter
from alignbench.models.controlnet import ControlNetSupport
from alignbench.models.schedulers import check_few_step
from alignbench.models.weights.low_rank import adapters_of, kohya_keys


def refuse_guidance_input(unet: Any) -> None:
    """Refuse a UNet that takes guidance as an input, as those of LCM and SSD do: nothing here gives it any.

    Raises:
        UserError: naming the entry of its configuration.
    """
    if (width := unet.config.time_cond_proj_dim) is not None:
        raise UserError(
            f"the UNet of these weights takes guidance as an input (time_cond_proj_dim={width}), as few-step weights "
            "of LCM do, and such UNets are not supported; give the weights that it was distilled from"
        )


class StableDiffusion(ModelAdapter):
    """Stable Diffusion 1.x, epsilon or v_prediction.

    Whatever sampler the pipeline came with is replaced by DDIM on the same noise process, so that `generate` and
    `sample` are one sampler.
    """

    pipeline_class = "StableDiffusionPipeline"
    denoiser_name = "unet"
    frozen_parts = ("vae", "text_encoder")
    has_comfyui_keys = True
    single_file_keys: ClassVar = {
        "unet": ("model.diffusion_model.input_blocks.",),
        "vae": ("first_stage_model.",),
        "text_encoder": ("cond_stage_model.",),
    }
    controlnet = ControlNetSupport(
        "StableDiffusionControlNetPipeline", "ControlNetModel", "image", width="cross_attention_dim"
    )

    def __init__(self, pipeline: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(pipeline, *args, **kwargs)
        refuse_guidance_input(pipeline.unet)

    def sampler_of(self, scheduler: Any) -> DDIMScheduler:
        """Return DDIM on the noise process of the scheduler that the weights came with."""
        return as_ddim(scheduler)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Return the last hidden states of the CLIP text encoder."""
        embeds, _ = self.pipeline.encode_prompt(
            list(prompts), self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return Conditioning(embeds)

    def blank_conditioning(self, num_prompts: int) -> Conditioning:
        """Return zeros of the shapes that `encode_prompts` returns."""
        config = self.denoiser.config
        return Conditioning(self._zeros(num_prompts, CLIP_TOKENS, config.cross_attention_dim))

    def noise_levels(self, num_inference_steps: int) -> NoiseLevels:
        """Return the levels that DDIM visits, as `ddim_ladder` does."""
        check_few_step(self.published_scheduler, None)
        return ddim_ladder(self.pipeline.scheduler, self.schedule, num_inference_steps)

    def sample_timesteps(
        self, batch_size: int, generator: torch.Generator, latent_size: Sequence[int] | None = None
    ) -> Tensor:
        """Draw integer timesteps uniformly, whatever the size of the latents."""
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

    def comfyui_keys(self) -> dict[str, Tensor]:
        """Return the policy's adapters under the keys of kohya's scripts, which ComfyUI and diffusers read."""
        return kohya_keys(adapters_of(self.denoiser))
