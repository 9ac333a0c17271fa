"""A tiny random Qwen-Image."""

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import AutoencoderKLQwenImage
from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformer2DModel
from diffusers.pipelines.qwenimage.pipeline_qwenimage import QwenImagePipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from alignbench.models.families.qwen_image import QwenImage
from alignbench.models.tiny_random.parts import WIDTH, Tiny, qwen_tokenizer


def tiny_qwen_image(seed: int = 0) -> QwenImagePipeline:
    """Return a random Qwen-Image with the published shifting, which ends at a level above 0 before the last step."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            axes_dims_rope=(4, 6, 6),
        )
        vae = AutoencoderKLQwenImage(
            base_dim=4,
            z_dim=4,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
            latents_mean=[-0.7, 0.2, 0.4, -0.1],
            latents_std=[2.8, 1.4, 0.7, 1.9],
        )
        with torch.no_grad():  # images of one grey would show nothing
            vae.decoder.conv_out.weight.mul_(10)
        tokenizer = qwen_tokenizer()
        scheduler: dict[str, Any] = {
            "use_dynamic_shifting": True,
            "base_shift": 0.5,
            "max_shift": 0.9,
            "base_image_seq_len": 256,
            "max_image_seq_len": 8192,
            "shift_terminal": 0.02,
        }
        parts: dict[str, Any] = {
            "transformer": transformer,
            "vae": vae,
            "tokenizer": tokenizer,
            "text_encoder": Qwen2_5_VLForConditionalGeneration(_text_config(len(tokenizer))),
            "scheduler": FlowMatchEulerDiscreteScheduler(**scheduler),
        }
        return QwenImagePipeline(**parts)


def _text_config(vocab_size: int) -> Qwen2_5_VLConfig:
    text = {
        "vocab_size": vocab_size,
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]},
    }
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": WIDTH}
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision)


LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
# the first tokens that the pipeline leaves out are letters here, and most of the system's text stays
TINY = Tiny(QwenImage, tiny_qwen_image, {"max_sequence_length": 320}, lora_targets=LORA_TARGETS)
