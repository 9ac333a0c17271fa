"""A tiny random Z-Image."""

from typing import Any

import torch
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel
from diffusers.pipelines.z_image.pipeline_z_image import ZImagePipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from transformers import Qwen3Model

from alignbench.models.families.z_image import ZImage
from alignbench.models.tiny_random.parts import WIDTH, Tiny, autoencoder, qwen3_config, qwen_tokenizer


def tiny_z_image(seed: int = 0, shift: float = 6.0) -> ZImagePipeline:
    """Return a random Z-Image with the published shift, which is 3 for Turbo."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        settings: dict[str, Any] = {
            "in_channels": 4,
            "dim": 32,
            "n_layers": 2,
            "n_refiner_layers": 1,
            "n_heads": 2,
            "n_kv_heads": 2,
            "cap_feat_dim": WIDTH,
            "axes_dims": [4, 6, 6],
            "axes_lens": [1024, 512, 512],
        }
        transformer = ZImageTransformer2DModel(**settings)
        for token in (transformer.x_pad_token, transformer.cap_pad_token):  # zeros at birth, which would show nothing
            torch.nn.init.normal_(token)
        tokenizer = qwen_tokenizer()
        parts: dict[str, Any] = {
            "transformer": transformer,
            "vae": autoencoder(0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
            "tokenizer": tokenizer,
            "text_encoder": Qwen3Model(qwen3_config(tokenizer, num_layers=2)),
            "scheduler": FlowMatchEulerDiscreteScheduler(shift=shift),
        }
        return ZImagePipeline(**parts)


TINY = Tiny(ZImage, tiny_z_image, {"max_sequence_length": 160})
