"""A tiny random Stable Diffusion 1.x."""

from typing import Any

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from transformers import CLIPTextModel

from alignbench.models.adapter import ModelAdapter
from alignbench.models.families.stable_diffusion import StableDiffusion
from alignbench.models.tiny_random.parts import WIDTH, Tiny, autoencoder, clip_config, clip_tokenizer


def tiny_stable_diffusion(seed: int = 0, prediction_type: str = "epsilon") -> StableDiffusionPipeline:
    """Return a random Stable Diffusion 1.x with the published noise process and sampling settings."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = clip_tokenizer()
        unet: dict[str, Any] = {
            "sample_size": 8,
            "block_out_channels": (16, 32),
            "layers_per_block": 1,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "cross_attention_dim": WIDTH,
            "attention_head_dim": 2,
            "norm_num_groups": 8,
        }
        scheduler: dict[str, Any] = {
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "clip_sample": False,
            "set_alpha_to_one": False,
            "steps_offset": 1,
            "prediction_type": prediction_type,
        }
        parts: dict[str, Any] = {
            "unet": UNet2DConditionModel(**unet),
            "vae": autoencoder(0.18215),
            "tokenizer": tokenizer,
            "text_encoder": CLIPTextModel(clip_config(tokenizer)),
            "scheduler": DDIMScheduler(**scheduler),
            "safety_checker": None,
            "feature_extractor": None,
        }
    return StableDiffusionPipeline(**parts, requires_safety_checker=False)


def unet_controlnet(model: ModelAdapter) -> ControlNetModel:
    halvings = model.pipeline.vae_scale_factor.bit_length() - 1
    return ControlNetModel.from_unet(model.denoiser, conditioning_embedding_out_channels=(8, *(16,) * halvings))


TINY = Tiny(StableDiffusion, tiny_stable_diffusion, controlnet=unet_controlnet)
