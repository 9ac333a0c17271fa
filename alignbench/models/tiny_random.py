"""Tiny random pipelines of every family, for tests: genuine diffusers classes, built offline within a second."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.controlnets.controlnet_flux import FluxControlNetModel
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

from alignbench.models.adapter import ModelAdapter
from alignbench.models.flux import Flux
from alignbench.models.stable_diffusion import StableDiffusion
from alignbench.models.stable_diffusion_3 import StableDiffusion3
from alignbench.models.stable_diffusion_xl import StableDiffusionXL

RESOLUTION = 32
WIDTH = 16  # of the text features


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
            "vae": _vae(0.18215),
            "tokenizer": tokenizer,
            "text_encoder": CLIPTextModel(_clip_config(tokenizer)),
            "scheduler": DDIMScheduler(**scheduler),
            "safety_checker": None,
            "feature_extractor": None,
        }
    return StableDiffusionPipeline(**parts, requires_safety_checker=False)


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
            "vae": _vae(0.13025),
            "tokenizer": tokenizer,
            "text_encoder": CLIPTextModel(_clip_config(tokenizer)),
            "tokenizer_2": tokenizer,
            "text_encoder_2": CLIPTextModelWithProjection(_clip_config(tokenizer)),
            "scheduler": EulerDiscreteScheduler(**scheduler),
        }
    return StableDiffusionXLPipeline(
        **parts, force_zeros_for_empty_prompt=force_zeros_for_empty_prompt, add_watermarker=False
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
            "vae": _vae(1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False),
            "tokenizer": tokenizer,
            "text_encoder": CLIPTextModelWithProjection(_clip_config(tokenizer)),
            "tokenizer_2": tokenizer,
            "text_encoder_2": CLIPTextModelWithProjection(_clip_config(tokenizer)),
            "tokenizer_3": tokenizer_3 if with_t5 else None,
            "text_encoder_3": _t5_encoder(tokenizer_3, 2 * WIDTH) if with_t5 else None,
            "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=use_dynamic_shifting),
        }
    return StableDiffusion3Pipeline(**parts)


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
            vae=_vae(0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
            tokenizer=tokenizer,
            text_encoder=CLIPTextModel(_clip_config(tokenizer)),
            tokenizer_2=tokenizer_2,
            text_encoder_2=_t5_encoder(tokenizer_2, WIDTH),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        )


@dataclass(frozen=True)
class Tiny:
    """The tiny random models of one family.

    Attributes:
        adapter: the family.
        pipeline: makes its pipeline from `seed=0` and settings of its own.
        settings: arguments of the adapter beside pipeline, resolution and layers for adapters.
        controlnet: makes a ControlNet that fits a network; None where the family is not sampled under control.
    """

    adapter: type[ModelAdapter]
    pipeline: Callable[..., Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    controlnet: Callable[[ModelAdapter], Any] | None = None


def _unet_controlnet(model: ModelAdapter) -> ControlNetModel:
    halvings = model.pipeline.vae_scale_factor.bit_length() - 1
    return ControlNetModel.from_unet(model.denoiser, conditioning_embedding_out_channels=(8, *(16,) * halvings))


def _flux_controlnet(model: ModelAdapter) -> FluxControlNetModel:
    names = (
        "in_channels", "num_layers", "num_single_layers", "attention_head_dim", "num_attention_heads",
        "joint_attention_dim", "pooled_projection_dim", "axes_dims_rope", "guidance_embeds",
    )  # fmt: skip
    settings: dict[str, Any] = {name: model.denoiser.config[name] for name in names}
    return FluxControlNetModel(**settings)


TINY: Mapping[str, Tiny] = {  # one entry a family, by the name of its module
    "stable_diffusion": Tiny(StableDiffusion, tiny_stable_diffusion, controlnet=_unet_controlnet),
    "stable_diffusion_xl": Tiny(StableDiffusionXL, tiny_stable_diffusion_xl, controlnet=_unet_controlnet),
    "stable_diffusion_3": Tiny(StableDiffusion3, tiny_stable_diffusion_3, {"max_sequence_length": 32}),
    "flux": Tiny(Flux, tiny_flux, {"train_guidance_scale": 3.5, "max_sequence_length": 32}, _flux_controlnet),
}


def tiny_adapter(family: str, **pipeline_arguments: Any) -> ModelAdapter:
    """Return the adapter of a tiny random pipeline; `family` is the name of its module."""
    tiny = TINY[family]
    attention = ["to_q", "to_k", "to_v", "to_out.0"]
    return tiny.adapter(tiny.pipeline(**pipeline_arguments), RESOLUTION, attention, **tiny.settings)


def tiny_controlnet(model: ModelAdapter, seed: int = 0) -> Any:
    """Return a random ControlNet for a model, whose last layers are not zero as those of a fresh one."""
    make = next(tiny.controlnet for tiny in TINY.values() if type(model) is tiny.adapter)
    assert make is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make(model)
        for name, parameter in network.named_parameters():
            if name.startswith("controlnet_"):
                torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


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


def _clip_config(tokenizer: CLIPTokenizer) -> CLIPTextConfig:
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


def _t5_encoder(tokenizer: T5Tokenizer, width: int) -> T5EncoderModel:
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


def _vae(scaling_factor: float, **settings: Any) -> AutoencoderKL:
    config: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "block_out_channels": (8, 8, 16),
        "norm_num_groups": 4,
        "latent_channels": 4,
        "scaling_factor": scaling_factor,
    }
    return AutoencoderKL(**config, **settings)
