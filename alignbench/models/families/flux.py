"""FLUX.1: a transformer over packed latents with CLIP and T5 features, rectified flow, distilled guidance."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from alignbench.batch import Conditioning
from alignbench.errors import UserError
from alignbench.models.controlnet import ControlNetSupport
from alignbench.models.flow_adapter import FlowAdapter
from alignbench.models.latents import PackedLatents

DISTILLED = (
    "sampling.negative_prompt has no effect on guidance that is an input of the network; set sampling.true_cfg_scale "
    "above 1 as well, which doubles the time of an image, or leave it out"
)


class Flux(PackedLatents, FlowAdapter):
    """FLUX.1-dev (guidance is an input) and networks without that input (true classifier-free guidance).

    Args:
        max_sequence_length: tokens of the T5 prompt.
    """

    pipeline_class = "FluxPipeline"
    denoiser_name = "transformer"
    frozen_parts = ("vae", "text_encoder", "text_encoder_2")
    patch_size = 2
    has_comfyui_keys = True
    single_file_keys: ClassVar = {
        "transformer": ("model.diffusion_model.double_blocks.", "double_blocks."),
        "vae": ("first_stage_model.", "vae."),
        "text_encoder": ("text_encoders.clip_l.",),
        "text_encoder_2": ("text_encoders.t5xxl.",),
    }
    original_blocks: ClassVar = {
        ("double_blocks", "transformer_blocks"): {
            "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
            "img_attn.proj": ("attn.to_out.0",),
            "img_mlp.0": ("ff.net.0.proj",),
            "img_mlp.2": ("ff.net.2",),
            "img_mod.lin": ("norm1.linear",),
            "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
            "txt_attn.proj": ("attn.to_add_out",),
            "txt_mlp.0": ("ff_context.net.0.proj",),
            "txt_mlp.2": ("ff_context.net.2",),
            "txt_mod.lin": ("norm1_context.linear",),
        },
        ("single_blocks", "single_transformer_blocks"): {
            "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
            "linear2": ("proj_out",),
            "modulation.lin": ("norm.linear",),
        },
    }
    controlnet = ControlNetSupport(
        "FluxControlNetPipeline",
        "FluxControlNetModel",
        "control_image",
        width="joint_attention_dim",
        scheduler="FlowMatchEulerDiscrete",  # the pipeline gives the scheduler its levels, which others do not take
    )

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Return T5's hidden states and CLIP's pooled vector."""
        embeds, pooled, _ = self.pipeline.encode_prompt(
            list(prompts), device=self.device, max_sequence_length=self.max_sequence_length
        )
        return Conditioning(embeds, pooled)

    @property
    def prompt_limits(self) -> dict[str, int]:
        return super().prompt_limits | {"tokenizer_2": self.max_sequence_length}

    def blank_conditioning(self, num_prompts: int) -> Conditioning:
        """Return zeros of the shapes that `encode_prompts` returns."""
        config = self.denoiser.config
        embeds = self._zeros(num_prompts, self.max_sequence_length, config.joint_attention_dim)
        return Conditioning(embeds, self._zeros(num_prompts, config.pooled_projection_dim))

    # ---- the network

    @classmethod
    def takes_guidance(cls, config: Mapping[str, Any]) -> bool:
        """Say whether a transformer has the guidance embedding (FLUX.1-dev has, schnell has not)."""
        return config.get("guidance_embeds", False)

    @classmethod
    def takes_few_steps(
        cls, index: Mapping[str, Any], denoiser: Mapping[str, Any], scheduler: Mapping[str, Any]
    ) -> bool:
        """Take weights without guidance embedding for those of schnell, though some others have none either."""
        return not cls.takes_guidance(denoiser)

    @property
    def guidance_is_distilled(self) -> bool:
        """Whether this transformer has the guidance embedding."""
        return self.takes_guidance(self.denoiser.config)

    def forward(
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning, guidance: Tensor | None
    ) -> Tensor:
        """Call the transformer on packed latents."""
        assert conditioning.pooled_prompt_embeds is not None
        device, num_tokens = noisy_latents.device, conditioning.prompt_embeds.shape[1]
        rows, columns = (torch.arange(side // self.patch_size, device=device) for side in noisy_latents.shape[-2:])
        prediction = self.policy(
            hidden_states=self.pack(noisy_latents).to(self.dtype),
            # rounded to the network's dtype before the division, as the pipeline does
            timestep=timesteps.to(self.dtype) / self.schedule.num_train_timesteps,
            guidance=guidance,
            pooled_projections=conditioning.pooled_prompt_embeds.to(self.dtype),
            encoder_hidden_states=conditioning.prompt_embeds.to(self.dtype),
            txt_ids=torch.zeros(num_tokens, 3, device=device),
            img_ids=functional.pad(torch.cartesian_prod(rows, columns), (1, 0)).float(),
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
        """Guide by the network's input where there is one, and away from a prompt where that is asked for or needed."""
        arguments: dict[str, Any] = {"max_sequence_length": self.max_sequence_length}
        if not self.guidance_is_distilled:
            true_cfg_scale = guidance_scale if true_cfg_scale is None else true_cfg_scale
        else:
            arguments["guidance_scale"] = guidance_scale
            if true_cfg_scale is None:
                if negative_prompt is not None:
                    raise UserError(DISTILLED)
                return arguments
        return arguments | {"true_cfg_scale": true_cfg_scale, "negative_prompt": [negative_prompt or ""] * num_prompts}
