"""Low-rank adapters as matrices: extracted from a change of weights, read from a network, named for other programs."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from alignbench.errors import UserError

EXACT_SIDE = 1024  # matrices with a side up to this are decomposed exactly; larger ones would take minutes each
Adapters = Mapping[str, tuple[Tensor, Tensor, float]]  # layer -> A [r, ...], B [m, r, ...] and alpha

OVERSAMPLING, POWER_ITERATIONS = 16, 4  # of the random decomposition: Halko et al. 2011, sections 4.2 and 4.5


def extract(network: nn.Module, start: Mapping[str, Tensor], rank: int) -> tuple[dict[str, Tensor], float]:
    """Return the adapters that come nearest to what was learnt, and the share of the change that they keep.

    Layers inside of blocks are taken, linear and convolutional; norms, biases and embeddings cannot be written as
    adapters and count as lost.

    Args:
        network: what was trained, without adapters.
        start: its weights before.
        rank: of the adapters, at least 1; a smaller layer has its own.

    Returns:
        `<module>.lora_A.weight` and `.lora_B.weight` in float32, to be added with alpha = rank; and the share of the
        squared change of all weights that they keep, 0..1.

    Raises:
        UserError: if nothing changed.
    """
    changed = {key: tensor for key, tensor in network.state_dict().items() if not torch.equal(tensor, start[key])}
    layers = {
        name
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and re.search(r"(^|_)blocks\.", name)
    }
    total = kept = 0.0
    state: dict[str, Tensor] = {}
    for key, tensor in changed.items():
        change = tensor.float() - start[key].float()
        total += float(change.double().square().sum())
        name = key.removesuffix(".weight")
        if name not in layers:
            continue
        up, down = _decompose(change.flatten(1), rank)
        kept += float(change.double().square().sum() - (change.flatten(1) - up @ down).double().square().sum())
        state[f"{name}.lora_A.weight"] = down.reshape(len(down), *change.shape[1:]).contiguous()
        state[f"{name}.lora_B.weight"] = up.reshape(*up.shape, *(1,) * (change.ndim - 2)).contiguous()
    if not state:
        raise UserError(
            "the weights equal those that training started from in every layer; there is nothing to extract"
        )
    return state, kept / total


def _decompose(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the nearest product of [m, r] and [r, n], the singular values shared between them."""
    rank = min(rank, *matrix.shape)
    if min(matrix.shape) <= EXACT_SIDE:
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    else:
        with torch.random.fork_rng():
            torch.manual_seed(0)  # the same file whenever it is made
            left, values, columns = torch.svd_lowrank(matrix, q=rank + OVERSAMPLING, niter=POWER_ITERATIONS)
        right = columns.mT
    root = values[:rank].sqrt()
    return left[:, :rank] * root, root[:, None] * right[:rank]


def adapters_of(network: nn.Module) -> Adapters:
    """Return the adapters of each layer: A [r, ...], B [m, r, ...] and alpha; they add alpha / r * B A."""
    from peft.tuners.lora import LoraLayer

    found: dict[str, tuple[Tensor, Tensor, float]] = {}
    for name, layer in network.named_modules():
        if isinstance(layer, LoraLayer):
            down: Any = layer.lora_A["default"]
            up: Any = layer.lora_B["default"]
            found[name] = (down.weight.detach(), up.weight.detach(), layer.scaling["default"] * len(down.weight))
    return found


def scale_adapters(network: nn.Module, factor: float) -> None:
    """Multiply what the adapters of each layer add."""
    from peft.tuners.lora import LoraLayer

    for layer in network.modules():
        if isinstance(layer, LoraLayer):
            layer.scale_layer(factor)


def kohya_keys(adapters: Adapters) -> dict[str, Tensor]:
    """Return adapters of a UNet under the keys of kohya's scripts.

    Source: `model_lora_keys_unet` in comfy/lora.py of ComfyUI.
    """
    state: dict[str, Tensor] = {}
    for name, (down, up, alpha) in adapters.items():
        key = f"lora_unet_{name.replace('.', '_')}"
        state |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(alpha)}
    return {key: tensor.contiguous() for key, tensor in state.items()}


def diffusers_keys(denoiser: str, adapters: Adapters) -> dict[str, Tensor]:
    """Return adapters under the keys of diffusers, with alpha / rank inside of B: not all of its loaders know an alpha.

    Args:
        denoiser: what the pipeline calls its network.
    """
    state: dict[str, Tensor] = {}
    for name, (down, up, alpha) in adapters.items():
        key = f"{denoiser}.{name}"
        state |= {f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up * (alpha / len(down))}
    return {key: tensor.contiguous() for key, tensor in state.items()}
