"""A tiny random Stable Diffusion 3.5."""

from typing import Any

import torch
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from transformers import CLIPTextModelWithProjection

from alignbench.models.families.stable_diffusion_3 import StableDiffusion3
from alignbench.models.tiny_random.parts import (
    WIDTH,
    Tiny,
    autoencoder,
    clip_config,
    clip_tokenizer,
    t5_encoder,
    t5_tokenizer,
)


def tiny_stable_diffusion_3(
    seed: int = 0, use_dynamic_shifting: bool = False, with_t5: bool = True
) -> StableDiffusion3Pipeline:
    """Return a random Stable Diffusion 3.5 with the published shift; `with_t5=False` leaves T5 out."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = SD3Transformer2DModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=2 * WIDTH,
            caption_projection_dim=16,
            pooled_projection_dim=2 * WIDTH,
            pos_embed_max_size=16,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        )
        tokenizer, tokenizer_3 = clip_tokenizer(), t5_tokenizer()
        parts: dict[str, Any] = {
            "transformer": transformer,
            "vae": autoencoder(1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False),
            "tokenizer": tokenizer,
            "text_encoder": CLIPTextModelWithProjection(clip_config(tokenizer)),
            "tokenizer_2": tokenizer,
            "text_encoder_2": CLIPTextModelWithProjection(clip_config(tokenizer)),
            "tokenizer_3": tokenizer_3 if with_t5 else None,
            "text_encoder_3": t5_encoder(tokenizer_3, 2 * WIDTH) if with_t5 else None,
            "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=use_dynamic_shifting),
        }
    return StableDiffusion3Pipeline(**parts)


TINY = Tiny(StableDiffusion3, tiny_stable_diffusion_3, {"max_sequence_length": 32})
