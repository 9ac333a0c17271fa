"""Wan 2.1: a video transformer with UMT5 features, rectified flow, classifier-free guidance; here for single images."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.utils.import_utils import is_ftfy_available
from torch import Tensor

from alignbench.batch import Conditioning
from alignbench.diffusion.flow_matching import as_flow_euler
from alignbench.errors import UserError
from alignbench.models.flow_adapter import FlowAdapter
from alignbench.models.frame_latents import FrameLatents
from alignbench.models.schedulers import OF_FLOW


class Wan(FrameLatents, FlowAdapter):
    """Wan 2.1 from text, whose videos have one frame: latents have no frame axis, and only its pipeline adds one.

    Args:
        max_sequence_length: tokens of the prompt; features after its end are zeros, which the network reads.
    """

    pipeline_class = "WanPipeline"
    denoiser_name = "transformer"
    frozen_parts = ("vae", "text_encoder")
    patch_size = 2
    published_schedulers = OF_FLOW | {"UniPCMultistep"}

    def __init__(self, pipeline: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(pipeline, *args, **kwargs)
        config = pipeline.config
        if pipeline.transformer_2 is not None or config.boundary_ratio is not None or config.expand_timesteps:
            raise UserError(
                "model.pretrained_model_name_or_path holds Wan 2.2, which has a second transformer or timesteps of "
                "single tokens and is not supported; give weights of Wan 2.1 T2V"
            )
        if not is_ftfy_available():
            raise UserError("the pipeline of Wan cleans prompts with ftfy, which is not installed; pip install ftfy")

    def sampler_of(self, scheduler: Any) -> Any:
        """Return the scheduler of Euler's steps on the noise levels of UniPC, with which the weights come."""
        return as_flow_euler(scheduler)

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in; diffusers keeps norms and the embedding of time in float32."""
        return self.denoiser.patch_embedding.weight.dtype

    @property
    def sampling_dtype(self) -> torch.dtype:
        """What the pipeline holds latents in, whatever the network computes in."""
        return torch.float32

    @property
    def latent_factor(self) -> int:
        """Pixels along the side of one latent pixel."""
        return self.pipeline.vae_scale_factor_spatial

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Return UMT5's hidden states, zeros where a prompt has ended."""
        embeds, _ = self.pipeline.encode_prompt(
            list(prompts),
            do_classifier_free_guidance=False,
            max_sequence_length=self.max_sequence_length,
            device=self.device,
        )
        return Conditioning(embeds)

    @property
    def prompt_limits(self) -> dict[str, int]:
        return {"tokenizer": self.max_sequence_length}

    def blank_conditioning(self, num_prompts: int) -> Conditioning:
        """Return zeros of the shapes that `encode_prompts` returns."""
        return Conditioning(self._zeros(num_prompts, self.max_sequence_length, self.denoiser.config.text_dim))

    def start_sigmas(self, num_inference_steps: int) -> None:
        """Leave the levels to the scheduler, as the family's pipeline does."""

    def forward(
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning, guidance: Tensor | None
    ) -> Tensor:
        """Call the transformer on videos of one frame."""
        prediction = self.policy(
            hidden_states=self.pack(noisy_latents).to(self.dtype),
            timestep=timesteps,
            encoder_hidden_states=conditioning.prompt_embeds.to(self.dtype),
            return_dict=False,
        )[0]
        return self.unpack(prediction, noisy_latents.shape[-2:])

    def generation_arguments(
        self,
        num_prompts: int,
        guidance_scale: float,
        negative_prompt: str | None = None,
        true_cfg_scale: float | None = None,
    ) -> dict[str, Any]:
        """Make one frame, guided away from the empty prompt, the pipeline's default, or from the one that is given."""
        arguments = super().generation_arguments(num_prompts, guidance_scale, negative_prompt, true_cfg_scale)
        return arguments | {"num_frames": 1}

    def pack(self, latents: Tensor) -> Tensor:
        """Return [B, C, h, w] as a video of one frame, [B, C, 1, h, w]."""
        return latents[:, :, None]

    def unpack(self, packed: Tensor, latent_size: Sequence[int]) -> Tensor:
        """Return the only frame of a video, [B, C, h, w]."""
        return packed[:, :, 0]
