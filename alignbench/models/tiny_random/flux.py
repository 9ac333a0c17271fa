"""A tiny random FLUX.1."""

from typing import Any

import torch
from diffusers.models.controlnets.controlnet_flux import FluxControlNetModel
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from transformers import CLIPTextModel

from alignbench.models.adapter import ModelAdapter
from alignbench.models.families.flux import Flux
from alignbench.models.tiny_random.parts import (
    WIDTH,
    Tiny,
    autoencoder,
    clip_config,
    clip_tokenizer,
    t5_encoder,
    t5_tokenizer,
)


def tiny_flux(seed: int = 0, guidance_embeds: bool = True) -> FluxPipeline:
    """Return a random FLUX.1 with the shifting of FLUX.1-dev; without guidance embedding it is like FLUX.1-schnell."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            pooled_projection_dim=WIDTH,
            axes_dims_rope=(4, 6, 6),
            guidance_embeds=guidance_embeds,
        )
        tokenizer, tokenizer_2 = clip_tokenizer(), t5_tokenizer()
        return FluxPipeline(
            transformer=transformer,
            vae=autoencoder(0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
            tokenizer=tokenizer,
            text_encoder=CLIPTextModel(clip_config(tokenizer)),
            tokenizer_2=tokenizer_2,
            text_encoder_2=t5_encoder(tokenizer_2, WIDTH),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        )


def flux_controlnet(model: ModelAdapter) -> FluxControlNetModel:
    names = (
        "in_channels", "num_layers", "num_single_layers", "attention_head_dim", "num_attention_heads",
        "joint_attention_dim", "pooled_projection_dim", "axes_dims_rope", "guidance_embeds",
    )  # fmt: skip
    settings: dict[str, Any] = {name: model.denoiser.config[name] for name in names}
    return FluxControlNetModel(**settings)


TINY = Tiny(Flux, tiny_flux, {"train_guidance_scale": 3.5, "max_sequence_length": 32}, flux_controlnet)
