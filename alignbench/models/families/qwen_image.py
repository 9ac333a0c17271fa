"""Qwen-Image: a transformer over packed latents with features of Qwen2.5-VL, rectified flow, rescaled guidance."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.linalg import vector_norm

from alignbench.batch import Conditioning
from alignbench.models.flow_adapter import FlowAdapter
from alignbench.models.frame_latents import FrameLatents
from alignbench.models.latents import PackedLatents, from_tokens, to_tokens
from alignbench.models.schedulers import FLOW_EULER

NO_PROMPT = " "  # what the network was trained to take for no prompt


class QwenImage(FrameLatents, PackedLatents, FlowAdapter):
    """Qwen-Image and Qwen-Image-2512, guided by two calls.

    Args:
        max_sequence_length: tokens of a prompt, those that end its template included.
    """

    pipeline_class = "QwenImagePipeline"
    denoiser_name = "transformer"
    frozen_parts = ("vae", "text_encoder")
    pads_prompts = False
    patch_size = 2
    schedulers = FLOW_EULER

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Return the last hidden states of the tokens that each prompt has, without those of the system's text."""
        embeds, mask = self.pipeline.encode_prompt(
            list(prompts), device=self.device, max_sequence_length=self.max_sequence_length
        )
        return Conditioning(embeds, text_mask=None if mask is None else mask.bool())

    def encode_no_prompt(self) -> Conditioning:
        """Return the features of a blank."""
        return self.encode_prompts([NO_PROMPT])

    @property
    def prompt_limits(self) -> dict[str, int]:
        # the pipeline leaves out the system's text by a number of tokens, which is that of the published tokenizer
        template = self.pipeline.tokenizer(self.pipeline.prompt_template_encode.format(""))["input_ids"]
        others = len(template) - self.pipeline.prompt_template_encode_start_idx
        return {"tokenizer": self.max_sequence_length - others}

    def blank_conditioning(self, num_prompts: int) -> Conditioning:
        """Return zeros of the largest shapes that `encode_prompts` returns."""
        width = self.denoiser.config.joint_attention_dim
        return Conditioning(self._zeros(num_prompts, self.max_sequence_length, width))

    @property
    def unread_layers(self) -> list[str]:
        """What the last block makes of the text, which is not read after it."""
        last = f"transformer_blocks.{self.denoiser.config.num_layers - 1}"
        return [f"{last}.{name}" for name in ("attn.add_q_proj", "attn.norm_added_q", "attn.to_add_out", "txt_mlp")]

    def guide(self, conditional: Tensor, unconditional: Tensor, weight: float) -> Tensor:
        """Return the usual guidance, of which each token has the length of the conditional prediction's."""
        guided = super().guide(conditional, unconditional, weight)
        length, given = (
            vector_norm(to_tokens(one, self.patch_size), dim=-1, keepdim=True) for one in (conditional, guided)
        )
        tokens = to_tokens(guided, self.patch_size) * (length / given)
        return from_tokens(tokens, guided.shape[-2:], self.patch_size)

    def forward(
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning, guidance: Tensor | None
    ) -> Tensor:
        """Call the transformer on packed latents; it attends to no padding of the text."""
        size = [side // self.patch_size for side in noisy_latents.shape[-2:]]
        prediction = self.policy(
            hidden_states=self.pack(noisy_latents).to(self.dtype),
            # rounded to the network's dtype before the division, as the pipeline does
            timestep=timesteps.to(self.dtype) / self.schedule.num_train_timesteps,
            encoder_hidden_states=conditioning.prompt_embeds.to(self.dtype),
            encoder_hidden_states_mask=conditioning.text_mask,
            img_shapes=[[(1, *size)]] * len(noisy_latents),
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
        """Guide away from a blank or from the prompt that is given; the pipeline calls the scale true_cfg_scale."""
        arguments = super().generation_arguments(num_prompts, guidance_scale, negative_prompt, true_cfg_scale)
        arguments = {"true_cfg_scale": arguments.pop("guidance_scale"), **arguments}
        if self.is_guided(guidance_scale):
            arguments.setdefault("negative_prompt", [NO_PROMPT] * num_prompts)
        return arguments
