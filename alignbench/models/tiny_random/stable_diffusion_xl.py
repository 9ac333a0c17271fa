"""A tiny random Stable Diffusion XL."""

from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from alignbench.models.families.stable_diffusion_xl import StableDiffusionXL
from alignbench.models.tiny_random.parts import WIDTH, Tiny, autoencoder, clip_config, clip_tokenizer
from alignbench.models.tiny_random.stable_diffusion import unet_controlnet


def tiny_stable_diffusion_xl(
    seed: int = 0, prediction_type: str = "epsilon", force_zeros_for_empty_prompt: bool = True
) -> StableDiffusionXLPipeline:
    """Return a random Stable Diffusion XL with the published noise process and sampler."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = clip_tokenizer()
        unet: dict[str, Any] = {
            "sample_size": 8,
            "block_out_channels": (16, 32),
            "layers_per_block": 1,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2),
            "cross_attention_dim": 2 * WIDTH,
            "attention_head_dim": (2, 4),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + WIDTH,
            "norm_num_groups": 8,
        }
        scheduler: dict[str, Any] = {
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "timestep_spacing": "leading",
            "steps_offset": 1,
            "prediction_type": prediction_type,
        }
        parts: dict[str, Any] = {
            "unet": UNet2DConditionModel(**unet),
            "vae": autoencoder(0.13025),
            "tokenizer": tokenizer,
            "text_encoder": CLIPTextModel(clip_config(tokenizer)),
            "tokenizer_2": tokenizer,
            "text_encoder_2": CLIPTextModelWithProjection(clip_config(tokenizer)),
            "scheduler": EulerDiscreteScheduler(**scheduler),
        }
    return StableDiffusionXLPipeline(
        **parts, force_zeros_for_empty_prompt=force_zeros_for_empty_prompt, add_watermarker=False
    )


TINY = Tiny(StableDiffusionXL, tiny_stable_diffusion_xl, controlnet=unet_controlnet)
