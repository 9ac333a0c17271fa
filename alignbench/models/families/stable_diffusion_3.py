"""Stable Diffusion 3 and 3.5: a transformer with two CLIPs and T5, rectified flow, classifier-free guidance."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from alignbench.batch import Conditioning
from alignbench.models.adapter import CLIP_TOKENS
from alignbench.models.flow_adapter import FlowAdapter


class StableDiffusion3(FlowAdapter):
    """Stable Diffusion 3 and 3.5; a checkpoint without T5 has zeros in place of its features, as in diffusers.

    Args:
        max_sequence_length: tokens of the T5 prompt.
    """

    pipeline_class = "StableDiffusion3Pipeline"
    denoiser_name = "transformer"
    frozen_parts = ("vae", "text_encoder", "text_encoder_2", "text_encoder_3")
    patch_size = 2
    has_comfyui_keys = True
    single_file_keys: ClassVar = {
        "transformer": ("model.diffusion_model.joint_blocks.", "joint_blocks."),
        "vae": ("first_stage_model.", "vae."),
        "text_encoder": ("text_encoders.clip_l.",),
        "text_encoder_2": ("text_encoders.clip_g.",),
        "text_encoder_3": ("text_encoders.t5xxl.",),
    }
    original_blocks: ClassVar = {
        ("joint_blocks", "transformer_blocks"): {
            "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
            "x_block.attn.proj": ("attn.to_out.0",),
            "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
            "x_block.attn2.proj": ("attn2.to_out.0",),
            "x_block.mlp.fc1": ("ff.net.0.proj",),
            "x_block.mlp.fc2": ("ff.net.2",),
            "x_block.adaLN_modulation.1": ("norm1.linear",),
            "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
            "context_block.attn.proj": ("attn.to_add_out",),
            "context_block.mlp.fc1": ("ff_context.net.0.proj",),
            "context_block.mlp.fc2": ("ff_context.net.2",),
        },
    }
    no_controlnet = (
        "diffusers' pipeline of its family encodes maps by a draw without a seed, so that images could not be made "
        "again"
    )

    @property
    def longest_side(self) -> int:
        """Pixels along the longest side: the network has positions for no more."""
        return self.denoiser.config.pos_embed_max_size * self.side_multiple

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Return the CLIPs' penultimate hidden states followed by T5's, and the pooled vectors of both CLIPs."""
        embeds, _, pooled, _ = self.pipeline.encode_prompt(
            list(prompts),
            prompt_2=None,
            prompt_3=None,
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self.max_sequence_length,
        )
        return Conditioning(embeds, pooled)

    @property
    def prompt_limits(self) -> dict[str, int]:
        limits = super().prompt_limits
        return {name: self.max_sequence_length if name == "tokenizer_3" else limit for name, limit in limits.items()}

    def blank_conditioning(self, num_prompts: int) -> Conditioning:
        """Return zeros of the shapes that `encode_prompts` returns."""
        config = self.denoiser.config
        embeds = self._zeros(num_prompts, CLIP_TOKENS + self.max_sequence_length, config.joint_attention_dim)
        return Conditioning(embeds, self._zeros(num_prompts, config.pooled_projection_dim))

    def start_sigmas(self, num_inference_steps: int) -> None:
        """Leave the levels to the scheduler, as the family's pipeline does."""

    def forward(
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning, guidance: Tensor | None
    ) -> Tensor:
        """Call the transformer."""
        assert conditioning.pooled_prompt_embeds is not None
        return self.policy(
            hidden_states=noisy_latents.to(self.dtype),
            timestep=timesteps,
            pooled_projections=conditioning.pooled_prompt_embeds.to(self.dtype),
            encoder_hidden_states=conditioning.prompt_embeds.to(self.dtype),
            return_dict=False,
        )[0]
