"""Load the shipped networks of the shapes world: pipelines of the miniature models, and the reward CLIPs."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLQwenImage,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPModel,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    T5EncoderModel,
    T5Tokenizer,
)

from alignbench.errors import UserError
from alignbench.models.weights.without_weights import drop

FOLDER = Path(__file__).parent / "weights"
PIPELINES = ("flux_mini", "qwen_mini", "sd15_mini", "sd3_mini", "sdxl_mini")
CLIPS = ("shapes_clip", "shapes_preference")
LATENT_SIDE = 16
Pipeline = (
    FluxPipeline | QwenImagePipeline | StableDiffusionPipeline | StableDiffusion3Pipeline | StableDiffusionXLPipeline
)
SD3_CLIP_LENGTH = 24  # captions have at most 17 tokens; more padding would slow the transformer down


def load_pipeline(
    name: str, dtype: torch.dtype = torch.float32, folder: Path = FOLDER, without: Sequence[str] = ()
) -> Pipeline:
    """Assemble the pipeline of a miniature model; VAE, CLIP and T5 are the same for all but `qwen_mini`.

    Weights are stored in half precision and loaded in `dtype`. Images are 64 x 64 pixels by default. T5 prompts are 20
    tokens long: pass `max_sequence_length=20` to pipelines.

    Args:
        without: names of networks to build without weights; see `alignbench.models.weights.without_weights`.

    Raises:
        UserError: the name is unknown, or the shipped weights are incomplete.
    """
    pipeline = _assemble(name, dtype, folder)
    for component in without:
        drop(getattr(pipeline, component))
    return pipeline


def _assemble(name: str, dtype: torch.dtype, folder: Path) -> Pipeline:
    _check(name, PIPELINES, folder)
    own = folder / name
    if name == "qwen_mini":
        return _assemble_qwen(dtype, own)
    clip = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=dtype)
    components: dict[str, Any] = {
        "vae": AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=dtype),
        "text_encoder": clip,
        "tokenizer": CLIPTokenizer.from_pretrained(folder / "tokenizer"),
    }
    if name == "sd15_mini":
        components |= {
            "unet": UNet2DConditionModel.from_pretrained(own / "unet", torch_dtype=dtype),
            "scheduler": DDIMScheduler.from_pretrained(own / "scheduler"),
            "safety_checker": None,
            "feature_extractor": None,
            "requires_safety_checker": False,
        }
        return StableDiffusionPipeline(**components)
    if name == "sdxl_mini":
        components |= {
            "unet": UNet2DConditionModel.from_pretrained(own / "unet", torch_dtype=dtype),
            "scheduler": EulerDiscreteScheduler.from_pretrained(own / "scheduler"),
            "text_encoder_2": with_projection(clip),
            "tokenizer_2": CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        }
        return StableDiffusionXLPipeline(**components, add_watermarker=False)
    components["scheduler"] = FlowMatchEulerDiscreteScheduler.from_pretrained(own / "scheduler")
    t5 = T5EncoderModel.from_pretrained(folder / "text_encoder_2", dtype=dtype)
    t5_tokenizer = T5Tokenizer.from_pretrained(folder / "tokenizer_2")
    if name == "sd3_mini":
        components |= {
            "transformer": SD3Transformer2DModel.from_pretrained(own / "transformer", torch_dtype=dtype),
            "text_encoder": with_projection(clip),
            "text_encoder_2": with_projection(clip),
            "text_encoder_3": t5,
            "tokenizer_3": t5_tokenizer,
        }
        for tokenizer in ("tokenizer", "tokenizer_2"):
            components[tokenizer] = CLIPTokenizer.from_pretrained(
                folder / "tokenizer", model_max_length=SD3_CLIP_LENGTH
            )
        return StableDiffusion3Pipeline(**components)
    components |= {
        "transformer": FluxTransformer2DModel.from_pretrained(own / "transformer", torch_dtype=dtype),
        "text_encoder_2": t5,
        "tokenizer_2": t5_tokenizer,
    }
    pipeline = FluxPipeline(**components)
    pipeline.default_sample_size = LATENT_SIDE  # in latents; FluxPipeline assumes the size of FLUX.1
    return pipeline


def _assemble_qwen(dtype: torch.dtype, own: Path) -> QwenImagePipeline:
    components: dict[str, Any] = {
        "scheduler": FlowMatchEulerDiscreteScheduler.from_pretrained(own / "scheduler"),
        "vae": AutoencoderKLQwenImage.from_pretrained(own / "vae", torch_dtype=dtype),
        "text_encoder": Qwen2_5_VLForConditionalGeneration.from_pretrained(own / "text_encoder", dtype=dtype),
        "tokenizer": Qwen2Tokenizer.from_pretrained(own / "tokenizer"),
        "transformer": QwenImageTransformer2DModel.from_pretrained(own / "transformer", torch_dtype=dtype),
    }
    pipeline = QwenImagePipeline(**components)
    pipeline.default_sample_size = LATENT_SIDE  # in latents; QwenImagePipeline assumes the size of Qwen-Image
    return pipeline


def with_projection(clip: CLIPTextModel) -> CLIPTextModelWithProjection:
    """Return the shared CLIP as the class that SDXL and SD3 need, with the same weights.

    Both families read the hidden states before the last layer. So one more layer is added, which changes nothing: the
    states before it are those of the last layer of the shared encoder. The projection is the identity.
    """
    config = copy.deepcopy(clip.config)
    config.num_hidden_layers += 1
    with torch.random.fork_rng(devices=[]):  # loading must not change the caller's random state
        torch.manual_seed(0)  # unused weights, too, are the same each time
        encoder: Any = CLIPTextModelWithProjection(config)
    weights = encoder.state_dict()
    weights |= {f"text_model.{name.removeprefix('text_model.')}": value for name, value in clip.state_dict().items()}
    last = f"text_model.encoder.layers.{clip.config.num_hidden_layers}"
    for branch in (f"{last}.self_attn.out_proj", f"{last}.mlp.fc2"):
        for kind in ("weight", "bias"):
            weights[f"{branch}.{kind}"] = torch.zeros_like(weights[f"{branch}.{kind}"])
    weights["text_projection.weight"] = torch.eye(*weights["text_projection.weight"].shape)
    encoder.load_state_dict(weights)
    return encoder.to(dtype=clip.dtype).eval()


def load_clip(name: str, folder: Path = FOLDER) -> tuple[CLIPModel, CLIPTokenizer]:
    """Load a reward model in float32, with the tokenizer of the shapes world.

    Raises:
        UserError: the name is unknown, or the shipped weights are incomplete.
    """
    _check(name, CLIPS, folder)
    model = CLIPModel.from_pretrained(folder / name, dtype=torch.float32)
    return model.eval(), CLIPTokenizer.from_pretrained(folder / "tokenizer")


def _check(name: str, available: tuple[str, ...], folder: Path) -> None:
    if name not in available:
        raise UserError(f"{name!r} is not a network of the shapes world; available: {', '.join(available)}")
    if not (folder / name).is_dir():
        raise UserError(
            f"{folder} holds no {name}; restore it from the repository, or train it with "
            "`python -m alignbench.miniature.pretrain all --work pretrain`"
        )
