"""What the tiny random pipelines of several families have in common: tokenizers, text encoders and a VAE."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from transformers import (
    CLIPTextConfig,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    Qwen2Tokenizer,
    Qwen3Config,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

from alignbench.models.adapter import ModelAdapter

WIDTH = 16  # of the text features
QWEN_MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


@dataclass(frozen=True)
class Tiny:
    """The tiny random models of one family.

    Attributes:
        adapter: the family.
        pipeline: makes its pipeline from `seed=0` and settings of its own.
        settings: arguments of the adapter beside pipeline, resolution and layers for adapters.
        controlnet: makes a ControlNet that fits a network; None where the family is not sampled under control.
        lora_targets: layers that get adapters.
    """

    adapter: type[ModelAdapter]
    pipeline: Callable[..., Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    controlnet: Callable[[ModelAdapter], Any] | None = None
    lora_targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")


def clip_tokenizer() -> CLIPTokenizer:
    """Return CLIP's byte-level tokenizer without any merge: each byte of a text is a token."""
    alphabet = list(bytes_to_unicode().values())
    pieces = [*alphabet, *(piece + "</w>" for piece in alphabet), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={piece: index for index, piece in enumerate(pieces)}, merges=[], model_max_length=77)


def t5_tokenizer() -> T5Tokenizer:
    """Return T5's tokenizer over the printable ASCII characters; every other one is unknown to it."""
    pieces = ["<pad>", "</s>", "<unk>", "▁", *(chr(code) for code in range(0x21, 0x7F))]
    scores = [(piece, 0.0 if piece.startswith("<") and len(piece) > 1 else -1.0) for piece in pieces]
    return T5Tokenizer(vocab=scores, extra_ids=0, model_max_length=512)


def qwen_tokenizer() -> Qwen2Tokenizer:
    """Return Qwen's byte-level tokenizer without any merge, with a chat template in the form of Qwen3's."""
    alphabet = list(bytes_to_unicode().values())
    vocab = {piece: index for index, piece in enumerate([*alphabet, *QWEN_MARKS])}
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=[], model_max_length=4096)
    tokenizer.add_tokens(list(QWEN_MARKS), special_tokens=True)  # or they would be read letter by letter
    tokenizer.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n"
        "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
    )
    return tokenizer


def qwen3_config(tokenizer: Qwen2Tokenizer, num_layers: int) -> Qwen3Config:
    """Return the configuration of a tiny Qwen3."""
    padding: Any = tokenizer.pad_token_id
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        pad_token_id=padding,
    )


def clip_config(tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    config: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "projection_dim": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 77,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    return CLIPTextConfig(**config)


def t5_encoder(tokenizer: T5Tokenizer, width: int) -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=width,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    return T5EncoderModel(config)


def gemma_tokenizer(texts: Sequence[str] = ()) -> GemmaTokenizer:
    """Return Gemma's tokenizer over the printable ASCII characters; every other one is the bytes of its UTF-8.

    Args:
        texts: long ones that a pipeline puts before every prompt; each is a single token.
    """
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", *(chr(code) for code in range(0x21, 0x7F))]
    tokenizer = GemmaTokenizer(vocab={piece: index for index, piece in enumerate(pieces)}, add_bos_token=True)
    tokenizer.add_tokens(list(texts))
    return tokenizer


def gemma2_encoder(tokenizer: GemmaTokenizer) -> Gemma2Model:
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    return Gemma2Model(config)


def autoencoder(scaling_factor: float, num_blocks: int = 3, **settings: Any) -> AutoencoderKL:
    config: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * num_blocks,
        "up_block_types": ("UpDecoderBlock2D",) * num_blocks,
        "block_out_channels": (*(8,) * (num_blocks - 1), 16),
        "norm_num_groups": 4,
        "latent_channels": 4,
        "scaling_factor": scaling_factor,
    }
    return AutoencoderKL(**config, **settings)
