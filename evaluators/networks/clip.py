"""The CLIP network behind PickScore, HPSv2, CLIPScore and the LAION aesthetic predictor, however it was saved.

Two libraries publish CLIP weights, each in a layout of its own. Here they all go into the classes of transformers.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import CLIPConfig, CLIPModel, CLIPVisionModelWithProjection

from alignbench.errors import UserError
from alignbench.files import file_digest
from alignbench.models.weights.state_dicts import read_state_dict
from evaluators.networks.checkpoint import assign

Precision = Literal["float32", "bfloat16", "float16"]

_loaded: WeakValueDictionary[tuple[str, str, str, bool], CLIPModel] = WeakValueDictionary()

# Parts of a parameter's name in OpenCLIP, and in transformers; the image tower's before the text tower's.
RENAMED = (
    ("visual.class_embedding", "vision_model.embeddings.class_embedding"),
    ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    ("visual.conv1.", "vision_model.embeddings.patch_embedding."),
    ("visual.ln_pre.", "vision_model.pre_layrnorm."),
    ("visual.ln_post.", "vision_model.post_layernorm."),
    ("visual.transformer.resblocks.", "vision_model.encoder.layers."),
    ("visual.proj", "visual_projection.weight"),
    ("token_embedding.", "text_model.embeddings.token_embedding."),
    ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
    ("ln_final.", "text_model.final_layer_norm."),
    ("transformer.resblocks.", "text_model.encoder.layers."),
    ("text_projection", "text_projection.weight"),
)
RENAMED_IN_LAYERS = (
    (".ln_1.", ".layer_norm1."),
    (".ln_2.", ".layer_norm2."),
    (".attn.", ".self_attn."),
    (".mlp.c_fc.", ".mlp.fc1."),
    (".mlp.c_proj.", ".mlp.fc2."),
)


def clip_config(architecture: str | Mapping[str, Any]) -> CLIPConfig:
    """Return the configuration of a CLIP network.

    Args:
        architecture: a name that open_clip knows, such as ViT-H-14, or a mapping laid out as its model configurations:
            embed_dim, vision_cfg, text_cfg, and quick_gelu where the activation is OpenAI's.

    Raises:
        UserError: the name is unknown.
    """
    from open_clip import CLIPTextCfg, CLIPVisionCfg, get_model_config, list_models

    values = get_model_config(architecture) if isinstance(architecture, str) else architecture
    if values is None:
        similar = [name for name in list_models() if name.startswith("ViT-")]
        raise UserError(f"architecture={architecture} is unknown; available: {', '.join(similar)}")
    vision, text = CLIPVisionCfg(**values["vision_cfg"]), CLIPTextCfg(**values["text_cfg"])

    def tower(width: int, heads: int, layers: Any, mlp_ratio: float) -> dict[str, Any]:
        return {
            "hidden_size": width,
            "intermediate_size": int(width * mlp_ratio),
            "num_attention_heads": heads,
            "num_hidden_layers": layers,
            "hidden_act": "quick_gelu" if values.get("quick_gelu") else "gelu",
            "projection_dim": values["embed_dim"],
        }

    return CLIPConfig(
        projection_dim=values["embed_dim"],
        vision_config=tower(vision.width, vision.width // vision.head_width, vision.layers, vision.mlp_ratio)
        | {"image_size": vision.image_size, "patch_size": vision.patch_size},
        text_config=tower(text.width, text.heads, text.layers, text.mlp_ratio)
        | {"vocab_size": text.vocab_size, "max_position_embeddings": text.context_length},
    )


def image_pass(file: Path, architecture: str | Mapping[str, Any], precision: Precision) -> str:
    """Name what an image tower computes: of equal inputs, towers of one name give equal unit features."""
    vision: Any = clip_config(architecture).vision_config
    return f"{file_digest(file)} {vision.to_json_string()} {precision}"


def load_clip(
    file: Path, architecture: str | Mapping[str, Any], precision: Precision, gradient_checkpointing: bool
) -> CLIPModel:
    """Return both towers with the weights of a file in either layout, frozen; one network for all who ask alike.

    Raises:
        UserError: the architecture is unknown, or the weights are of another.
    """
    config = clip_config(architecture)
    key = (str(file.resolve()), config.to_json_string(), precision, gradient_checkpointing)
    network = _loaded.get(key)
    if network is None:
        network = assign(lambda: CLIPModel(config), to_transformers(read_state_dict(file)))
        if gradient_checkpointing:
            checkpoint_layers(network.vision_model.encoder.layers)
        network = _loaded[key] = network.to(getattr(torch, precision))
    return network


def load_clip_vision(
    file: Path, architecture: str | Mapping[str, Any], precision: Precision, gradient_checkpointing: bool
) -> CLIPVisionModelWithProjection:
    """Return the image tower alone; as `load_clip` otherwise."""
    config: Any = clip_config(architecture).vision_config
    weights = to_transformers(read_state_dict(file))
    parts = ("vision_model.", "visual_projection.")
    weights = {key: tensor for key, tensor in weights.items() if key.startswith(parts)}
    network = assign(lambda: CLIPVisionModelWithProjection(config), weights)
    if gradient_checkpointing:
        checkpoint_layers(network.vision_model.encoder.layers)
    return network.to(getattr(torch, precision))


def to_transformers(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return CLIP weights in the layout of transformers; such as have it already are passed on.

    OpenCLIP keeps queries, keys and values in one matrix, and the projections transposed.
    """
    if "visual.proj" not in state_dict:
        return dict(state_dict)
    converted = {}
    for published, tensor in state_dict.items():
        key = next((new + published.removeprefix(old) for old, new in RENAMED if published.startswith(old)), published)
        if ".resblocks." in published:
            for old, new in RENAMED_IN_LAYERS:
                key = key.replace(old, new)
        if ".in_proj_" in key:
            for name, part in zip("qkv", tensor.chunk(3), strict=True):
                converted[key.replace("in_proj_", f"{name}_proj.")] = part
        elif published in ("visual.proj", "text_projection"):
            converted[key] = tensor.T.contiguous()
        else:
            converted[key] = tensor
    return converted


def checkpoint_layers(layers: Iterable[nn.Module]) -> None:
    """Compute layers twice instead of keeping their activations for the gradient.

    The switch that transformers has for this does nothing in eval mode, in which evaluators stay.
    """
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)


def check_precision(precision: str) -> None:
    """Refuse a precision that networks do not compute in."""
    if precision not in get_args(Precision):
        raise UserError(f"precision={precision} is unknown; available: {', '.join(get_args(Precision))}")
