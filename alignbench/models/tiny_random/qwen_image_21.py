"""A tiny random Qwen-Image 2.1."""

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_qwenimage21 import AutoencoderKLQwenImage21
from diffusers.models.transformers.transformer_qwenimage21 import QwenImage21Transformer2DModel
from diffusers.pipelines.qwenimage21.pipeline_qwenimage21 import QwenImage21Pipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from transformers import (
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

from alignbench.models.families.qwen_image_21 import QwenImage21
from alignbench.models.tiny_random.parts import WIDTH, Tiny

MARKS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")


def tiny_qwen_image_21(seed: int = 0, sample_sigmas: list[float] | None = None) -> QwenImage21Pipeline:
    """Return a random Qwen-Image 2.1; with `sample_sigmas` it is made for so many steps, as its Turbo is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        processor = _processor()
        transformer = QwenImage21Transformer2DModel(
            in_channels=8,
            out_channels=8,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            context_in_dim=WIDTH,
            mlp_ratio=2,
            axes_dims_rope=(4, 6, 6),
        )
        vae = AutoencoderKLQwenImage21(
            base_dim=4,
            decoder_base_dim=4,
            z_dim=8,
            dim_mult=[1] * 5,
            num_res_blocks=1,
            latents_mean=[0.1 * channel - 0.3 for channel in range(8)],
            latents_std=[0.4 + 0.05 * channel for channel in range(8)],
        )
        return QwenImage21Pipeline(
            transformer=transformer,
            vae=vae,
            processor=processor,
            text_encoder=Qwen3VLForConditionalGeneration(_text_config(processor.tokenizer)).eval(),
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            sample_sigmas=sample_sigmas,
        )


def _processor() -> Qwen3VLProcessor:
    alphabet = list(bytes_to_unicode().values())
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *MARKS]
    vocab = {piece: index for index, piece in enumerate([*alphabet, *marks])}
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=[], model_max_length=4096)
    tokenizer.add_tokens(marks, special_tokens=True)  # or they would be read letter by letter
    template = (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n"
        "{% for part in message.content %}{{ part.text }}{% endfor %}<|im_end|>\n{% endfor %}"
    )
    return Qwen3VLProcessor(Qwen2VLImageProcessor(), tokenizer, Qwen3VLVideoProcessor(), chat_template=template)


def _text_config(tokenizer: Qwen2Tokenizer) -> Qwen3VLConfig:
    text: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]},
    }
    vision: dict[str, Any] = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": WIDTH,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
    }
    names = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    marks: dict[str, Any] = {
        name: tokenizer.convert_tokens_to_ids(mark) for name, mark in zip(names, MARKS, strict=True)
    }
    return Qwen3VLConfig(text_config=text, vision_config=vision, **marks)


TINY = Tiny(
    QwenImage21,
    tiny_qwen_image_21,
    {"max_sequence_length": 160},
    lora_targets=("to_q", "to_k", "to_v", "to_out.0", "img_mlp.out"),
)
