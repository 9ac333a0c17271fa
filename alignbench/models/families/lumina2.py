"""Lumina-Image 2.0: a transformer over one sequence of text and image, with features of Gemma 2, rectified flow."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.linalg import vector_norm

from alignbench.batch import Conditioning
from alignbench.models.flow_adapter import FlowAdapter
from alignbench.models.schedulers import FLOW_EULER

PROMPT_BEGINS = " <Prompt Start> "  # between the pipeline's system prompt and a prompt


class Lumina2(FlowAdapter):
    """Lumina-Image 2.0, guided by two calls.

    Args:
        max_sequence_length: tokens of a prompt, those of the system prompt included.
    """

    pipeline_class = "Lumina2Pipeline"
    denoiser_name = "transformer"
    frozen_parts = ("vae", "text_encoder")
    pads_prompts = False
    patch_size = 2
    schedulers = FLOW_EULER
    original_blocks: ClassVar = {
        (blocks, blocks): {
            "attention.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
            "attention.out": ("attn.to_out.0",),
            "feed_forward.w1": ("feed_forward.linear_1",),
            "feed_forward.w2": ("feed_forward.linear_2",),
            "feed_forward.w3": ("feed_forward.linear_3",),
            "adaLN_modulation.1": ("norm1.linear",),
        }
        for blocks in ("layers", "noise_refiner", "context_refiner")
    }

    # ---- text

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Return Gemma's last but one hidden states of the system prompt and each prompt."""
        embeds, mask, *_ = self.pipeline.encode_prompt(
            list(prompts),
            do_classifier_free_guidance=False,
            device=self.device,
            max_sequence_length=self.max_sequence_length,
        )
        return _without_padding(embeds, mask)

    @torch.no_grad()
    def encode_no_prompt(self) -> Conditioning:
        """Return the hidden states of the empty prompt, which has no system prompt before it."""
        *_, embeds, mask = self.pipeline.encode_prompt(
            [""], negative_prompt=[""], device=self.device, max_sequence_length=self.max_sequence_length
        )
        return _without_padding(embeds, mask)

    @property
    def prompt_limits(self) -> dict[str, int]:
        before = self.pipeline.tokenizer(self.pipeline.system_prompt + PROMPT_BEGINS)["input_ids"]
        return {"tokenizer": self.max_sequence_length - len(before) + 1}  # the mark of the beginning counts once

    def blank_conditioning(self, num_prompts: int) -> Conditioning:
        """Return zeros of the largest shapes that `encode_prompts` returns."""
        embeds = self._zeros(num_prompts, self.max_sequence_length, self.denoiser.config.cap_feat_dim)
        # the network reads lengths from its mask, and on the meta device nothing can be read
        device = "cpu" if embeds.is_meta else embeds.device
        return Conditioning(embeds, text_mask=torch.ones(embeds.shape[:2], dtype=torch.bool, device=device))

    # ---- the network

    @property
    def longest_side(self) -> int:
        """Pixels along the longest side: the network has positions for no more."""
        return min(self.denoiser.config.axes_lens[1:]) * self.side_multiple

    def guide(self, conditional: Tensor, unconditional: Tensor, weight: float) -> Tensor:
        """Return the usual guidance, of which each row of each channel has the length of the conditional prediction's.

        The pipeline takes lengths along the last axis of [B, C, h, w], which is the width of the image.
        """
        guided = super().guide(conditional, unconditional, weight)
        length, given = (vector_norm(one, dim=-1, keepdim=True) for one in (conditional, guided))
        return guided * (length / given)

    def forward(
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning, guidance: Tensor | None
    ) -> Tensor:
        """Call the transformer, whose time runs from noise to images and whose prediction is latents - noise."""
        prediction = self.policy(
            hidden_states=noisy_latents.to(self.dtype),
            timestep=1 - timesteps / self.schedule.num_train_timesteps,
            encoder_hidden_states=conditioning.prompt_embeds.to(self.dtype),
            encoder_attention_mask=conditioning.known_mask,
            return_dict=False,
        )[0]
        return -prediction


def _without_padding(embeds: Tensor, mask: Tensor) -> Conditioning:
    return Conditioning.of_rows(Conditioning(embeds, text_mask=mask.bool()).text_rows)
