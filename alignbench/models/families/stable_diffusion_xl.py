"""Stable Diffusion XL: a UNet with two CLIP text encoders, told the size of its images besides the prompt."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from alignbench.batch import Conditioning
from alignbench.crop import CropBox
from alignbench.diffusion.ddim import DDIMScheduler, as_ddim, ddim_ladder
from alignbench.diffusion.noise_levels import NoiseLevels
from alignbench.errors import UserError
from alignbench.models.adapter import CLIP_TOKENS, ModelAdapter
from alignbench.models.controlnet import ControlNetSupport
from alignbench.models.families.stable_diffusion import refuse_guidance_input
from alignbench.models.schedulers import check_few_step
from alignbench.models.weights.low_rank import adapters_of, kohya_keys


class StableDiffusionXL(ModelAdapter):
    """Stable Diffusion XL's base model, epsilon or v_prediction.

    Whatever sampler the pipeline came with is replaced by DDIM on the same noise process, so that `generate` and
    `sample` are one sampler. It ends clean and so takes the very steps of the Euler sampler that SDXL comes with.

    Images are declared uncropped and as large as they are sampled: (R, R, 0, 0, R, R) for original size, crop and
    target size, in sampling and, unless `with_crops` is asked, in training, as in the published code of DPO, InPO,
    SmPO and SFT.

    Raises:
        UserError: if the VAE is to decode in float16 and is not made for it.
    """

    pipeline_class = "StableDiffusionXLPipeline"
    denoiser_name = "unet"
    frozen_parts = ("vae", "text_encoder", "text_encoder_2")
    is_told_sizes = True
    has_comfyui_keys = True
    single_file_keys: ClassVar = {
        "unet": ("model.diffusion_model.input_blocks.",),
        "vae": ("first_stage_model.",),
        "text_encoder": ("conditioner.embedders.0.",),
        "text_encoder_2": ("conditioner.embedders.1.",),
    }
    controlnet = ControlNetSupport(
        "StableDiffusionXLControlNetPipeline", "ControlNetModel", "image", width="cross_attention_dim"
    )

    def __init__(self, pipeline: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(pipeline, *args, **kwargs)
        refuse_guidance_input(pipeline.unet)
        if pipeline.vae.dtype == torch.float16 and pipeline.vae.config.force_upcast:
            raise UserError(
                "model.adapter.vae_dtype=float16 would blacken images: the VAE of these weights overflows (its "
                "force_upcast is true); choose float32, or weights with a repaired VAE"
            )

    def sampler_of(self, scheduler: Any) -> DDIMScheduler:
        """Return DDIM on the noise process of the scheduler that the weights came with, which ends clean."""
        return as_ddim(scheduler, set_alpha_to_one=True)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Return both encoders' penultimate hidden states side by side, the second one's pooled vector, and sizes."""
        embeds, _, pooled, _ = self.pipeline.encode_prompt(
            list(prompts), device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        sizes = torch.tensor([self.resolution, self.resolution, 0, 0, self.resolution, self.resolution])
        return Conditioning(embeds, pooled, sizes.to(embeds).repeat(len(prompts), 1))

    def with_crops(self, conditioning: Conditioning, boxes: Sequence[CropBox]) -> Conditioning:
        """Tell the true original size of each image and the corner that was cut out, as MaPO's code does."""
        assert conditioning.time_ids is not None
        time_ids = torch.tensor([box.time_ids for box in boxes])
        return replace(conditioning, time_ids=time_ids.to(conditioning.time_ids))

    def without_prompts(self, conditioning: Conditioning) -> Conditioning:
        """Return zeros in place of text features, which SDXL was trained to take for no prompt, and the same sizes.

        A checkpoint that says otherwise in its `force_zeros_for_empty_prompt` has the features of the empty prompt.
        Those are also what a method's prompt dropout trains, as in the published code.
        """
        if not self.pipeline.config.force_zeros_for_empty_prompt:
            return replace(super().without_prompts(conditioning), time_ids=conditioning.time_ids)
        assert conditioning.pooled_prompt_embeds is not None
        return replace(
            conditioning,
            prompt_embeds=torch.zeros_like(conditioning.prompt_embeds),
            pooled_prompt_embeds=torch.zeros_like(conditioning.pooled_prompt_embeds),
        )

    @property
    def text_settings(self) -> dict[str, int]:
        return {"resolution": self.resolution}

    def blank_conditioning(self, num_prompts: int) -> Conditioning:
        """Return zeros of the shapes that `encode_prompts` returns."""
        config = self.denoiser.config
        embeds = self._zeros(num_prompts, CLIP_TOKENS, config.cross_attention_dim)
        # the network is told the pooled vector and the embedding of each of the six sizes, side by side
        pooled_width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        return Conditioning(embeds, self._zeros(num_prompts, pooled_width), self._zeros(num_prompts, 6))

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
        assert conditioning.pooled_prompt_embeds is not None
        assert conditioning.time_ids is not None
        return self.policy(
            noisy_latents.to(self.dtype),
            timesteps,
            encoder_hidden_states=conditioning.prompt_embeds.to(self.dtype),
            added_cond_kwargs={
                "text_embeds": conditioning.pooled_prompt_embeds.to(self.dtype),
                "time_ids": conditioning.time_ids.to(self.dtype),
            },
            return_dict=False,
        )[0]

    def comfyui_keys(self) -> dict[str, Tensor]:
        """Return the policy's adapters under the keys of kohya's scripts, which ComfyUI and diffusers read."""
        return kohya_keys(adapters_of(self.denoiser))
