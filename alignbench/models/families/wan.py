"""Wan 2.1: a video transformer with UMT5 features, rectified flow, classifier-free guidance."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers.utils.import_utils import is_ftfy_available
from torch import Tensor

from alignbench.batch import Conditioning
from alignbench.diffusion.flow_matching import as_flow_euler
from alignbench.errors import UserError
from alignbench.models.flow_adapter import FlowAdapter
from alignbench.models.frame_latents import FrameLatents
from alignbench.models.schedulers import OF_FLOW
from alignbench.settings.section import FrameCount

ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0"}  # layers as first published and here


class Wan(FrameLatents, FlowAdapter):
    """Wan 2.1 from text.

    Args:
        max_sequence_length: tokens of the prompt; features after its end are zeros, which the network reads.
        num_frames: of each video; with 1 it is a model of images.
    """

    pipeline_class = "WanPipeline"
    denoiser_name = "transformer"
    frozen_parts = ("vae", "text_encoder")
    patch_size = 2
    published_schedulers = OF_FLOW | {"UniPCMultistep"}
    original_blocks: ClassVar = {
        ("blocks", "blocks"): {
            f"{theirs}.{name}": (f"{ours}.{layer}",)
            for theirs, ours, layers in (
                ("self_attn", "attn1", ATTENTION),
                ("cross_attn", "attn2", ATTENTION),
                ("ffn", "ffn", {"0": "net.0.proj", "2": "net.2"}),
            )
            for name, layer in layers.items()
        }
    }

    def __init__(self, pipeline: Any, *args: Any, num_frames: FrameCount = 1, **kwargs: Any) -> None:
        super().__init__(pipeline, *args, **kwargs)
        factor = pipeline.vae_scale_factor_temporal
        if (num_frames - 1) % factor:
            raise UserError(f"model.num_frames={num_frames} must be one more than a multiple of {factor}")
        self.num_frames = num_frames
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

    @property
    def num_latent_frames(self) -> int:
        """Frames of the latents of one video: one for its first frame, and one for every four that follow."""
        return (self.num_frames - 1) // self.pipeline.vae_scale_factor_temporal + 1

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
        """Call the transformer on videos, those of one frame for a model of images."""
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
        """Guide away from the empty prompt, which is the pipeline's default, or from the one that is given."""
        arguments = super().generation_arguments(num_prompts, guidance_scale, negative_prompt, true_cfg_scale)
        return arguments | {"num_frames": self.num_frames}

    def pack(self, latents: Tensor) -> Tensor:
        """Return latents as videos, [B, C, F, h, w]."""
        return self.with_frame_axis(latents)

    def unpack(self, packed: Tensor, latent_size: Sequence[int]) -> Tensor:
        """Return videos, and for a model of images their only frames, [B, *latent_shape]."""
        return self.without_frame_axis(packed)
