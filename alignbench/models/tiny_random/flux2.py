"""A tiny random FLUX.2-dev, and the networks that it shares with klein."""

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_flux2 import AutoencoderKLFlux2
from diffusers.models.transformers.transformer_flux2 import Flux2Transformer2DModel
from diffusers.pipelines.flux2.pipeline_flux2 import Flux2Pipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from transformers import (
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PixtralImageProcessor,
    PixtralProcessor,
)

from alignbench.models.families.flux2 import Flux2
from alignbench.models.tiny_random.parts import WIDTH, Tiny, qwen_tokenizer

LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "to_qkv_mlp_proj", "attn.to_out")
CHAT = (
    "{% for message in messages %}[{{ message.role }}]"
    "{% for part in message.content %}{{ part.text }}{% endfor %}{% endfor %}"
)


def flux2_transformer(guidance_embeds: bool) -> Flux2Transformer2DModel:
    """Return a random transformer on the latents of `flux2_vae`."""
    return Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * WIDTH,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance_embeds,
    )


def flux2_vae() -> AutoencoderKLFlux2:
    """Return a random VAE whose batch norm has seen something."""
    vae = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 16),
        norm_num_groups=4,
        latent_channels=4,
    )
    assert vae.bn.running_mean is not None
    assert vae.bn.running_var is not None
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2.0)
    return vae


def flux2_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Return the scheduler that the family is published with."""
    return FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)


def tiny_flux2(seed: int = 0) -> Flux2Pipeline:
    """Return a random FLUX.2-dev."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = qwen_tokenizer()
        marks = ["[IMG]", "[IMG_BREAK]", "[IMG_END]"]
        tokenizer.add_tokens(marks, special_tokens=True)
        processor = PixtralProcessor(PixtralImageProcessor(), tokenizer, chat_template=CHAT)
        text = {
            "model_type": "mistral",
            "vocab_size": len(tokenizer),
            "hidden_size": WIDTH,
            "intermediate_size": 32,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 8,
        }
        vision = {
            "model_type": "pixtral",
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        }
        image: Any = tokenizer.convert_tokens_to_ids("[IMG]")
        config = Mistral3Config(text_config=text, vision_config=vision, image_token_index=image)
        parts: dict[str, Any] = {
            "transformer": flux2_transformer(guidance_embeds=True),
            "vae": flux2_vae(),
            "tokenizer": processor,
            "text_encoder": Mistral3ForConditionalGeneration(config),
            "scheduler": flux2_scheduler(),
        }
        return Flux2Pipeline(**parts)


SETTINGS = {"train_guidance_scale": 4.0, "max_sequence_length": 320, "text_encoder_out_layers": (1, 2, 3)}
TINY = Tiny(Flux2, tiny_flux2, SETTINGS, lora_targets=LORA_TARGETS)
