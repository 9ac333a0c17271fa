"""Policies on disk, in the layouts that diffusers reads: a whole network, or adapters."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from alignbench.models.adapter import ModelAdapter

LORA_FILE = "pytorch_lora_weights.safetensors"  # the name that diffusers looks for


def save_policy(model: "ModelAdapter", folder: Path) -> None:
    """Write the trained weights of `model`; see `ModelAdapter.save_policy`."""
    network: Any = model.denoiser
    if not model.is_lora:
        network.save_pretrained(folder / model.denoiser_name)
        return
    from peft import get_peft_model_state_dict

    # The configuration travels along: without its alpha a loader would assume alpha = rank and scale wrongly.
    model.pipeline.save_lora_weights(
        folder,
        **{
            f"{model.denoiser_name}_lora_layers": get_peft_model_state_dict(network),
            f"{model.denoiser_name}_lora_adapter_metadata": network.peft_config["default"].to_dict(),
        },
    )


def load_policy(model: "ModelAdapter", folder: Path) -> None:
    """Put saved weights into `model`; see `ModelAdapter.load_policy`."""
    network: Any = model.denoiser
    is_network = (folder / model.denoiser_name / "config.json").is_file()
    if not is_network and not (folder / LORA_FILE).is_file():
        raise FileNotFoundError(f"{folder} holds neither {model.denoiser_name}/config.json nor {LORA_FILE}")
    if model.is_lora:
        network.unload_lora()
    if is_network:
        saved = type(network).from_pretrained(folder / model.denoiser_name, local_files_only=True)
        network.load_state_dict(saved.state_dict())
        return
    network.load_lora_adapter(
        folder, prefix=model.denoiser_name, weight_name=LORA_FILE, adapter_name="default", local_files_only=True
    )
    if network.dtype not in (torch.float32, torch.float64):  # loading rounded the adapters to the network's dtype
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        widen_adapters(network)
        values = load_file(folder / LORA_FILE).items()
        set_peft_model_state_dict(network, {name.removeprefix(f"{model.denoiser_name}."): v for name, v in values})


def widen_adapters(network: nn.Module) -> None:
    """Make adapters float32, whatever the dtype of the network under them."""
    for name, parameter in network.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
