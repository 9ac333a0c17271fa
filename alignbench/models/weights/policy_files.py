"""Policies on disk: saved in the layouts that diffusers reads, loaded from those and from what others published."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from alignbench.errors import UserError
from alignbench.models.weights.adapter_files import (
    AdapterFile,
    BlockNames,
    check_kinds,
    holds_adapters,
    lacks_low_rank,
    unfit,
)
from alignbench.models.weights.find_policy import LORA_FILES, DenoiserName, Policy, find_policy
from alignbench.models.weights.state_dicts import listed, misfits, read_state_dict, shapes, sort_notes

LORA_FILE = LORA_FILES[0]
# what programs put before all keys of a network, its name in a pipeline among it
WRAPPERS = ("module.", "_orig_mod.", *(f"{name}." for name in get_args(DenoiserName)))


@dataclass(frozen=True)
class Adapters:
    """The low-rank adapters of a training.

    Attributes:
        rank: of their matrices.
        alpha: their output is multiplied by alpha / rank.
        targets: names of the linear layers that have one.
    """

    rank: int
    alpha: float
    targets: Sequence[str]


def has_adapters(network: Any) -> bool:
    """Say whether a network carries low-rank adapters."""
    return bool(getattr(network, "peft_config", None))


def save_policy(
    pipeline: Any, denoiser_name: DenoiserName, folder: Path, weights: dict[str, Tensor] | None = None
) -> None:
    """Write the trained weights of a pipeline's denoiser; see `ModelAdapter.save_policy`."""
    network: Any = getattr(pipeline, denoiser_name)
    if weights is None:
        weights = network.state_dict()
    if not has_adapters(network):
        with torch.device("meta"):
            whole = type(network).from_config(network.config)
        whole.load_state_dict(weights, assign=True)
        whole.save_pretrained(folder / denoiser_name)
        return
    from peft import get_peft_model_state_dict

    # The configuration travels along: without its alpha a loader would assume alpha = rank and scale wrongly.
    # Its sets are sorted: their order differs between processes, and the bytes of a policy depend on its run alone.
    config = network.peft_config["default"].to_dict()
    config = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    pipeline.save_lora_weights(
        folder,
        **{
            f"{denoiser_name}_lora_layers": get_peft_model_state_dict(network, weights),
            f"{denoiser_name}_lora_adapter_metadata": config,
        },
    )
    sort_notes(folder / LORA_FILE)


@dataclass(frozen=True, eq=False)
class SavedWeights:
    """Trained weights as they were read: where they come from, and the tensors under the names in their files."""

    policy: Policy
    state: dict[str, Tensor]

    @property
    def is_lora(self) -> bool:
        """Whether these are low-rank adapters, which lie beside the weights of a network and do not replace them."""
        return holds_adapters(self.state) and not lacks_low_rank(self.state)


def read_policy(denoiser_name: DenoiserName, path: Path | str, revision: str | None = None) -> SavedWeights:
    """Read trained weights in whatever layout they lie; see `ModelAdapter.load_policy`."""
    policy = find_policy(str(path), denoiser_name, revision)
    state: dict[str, Tensor] = {}
    for file in policy.files:
        state |= read_state_dict(file)
    return SavedWeights(policy, state)


def put_policy(
    pipeline: Any,
    denoiser_name: DenoiserName,
    weights: SavedWeights,
    original_keys: Sequence[str] = (),
    original_blocks: BlockNames | None = None,
) -> None:
    """Put saved weights into a pipeline's denoiser, which has no adapters; see `ModelAdapter.load_policy`.

    Args:
        original_keys: how keys of blocks begin where weights are in the layout that they were first published in.
        original_blocks: what the layers of blocks are called there.
    """
    network: Any = getattr(pipeline, denoiser_name)
    if not holds_adapters(weights.state):
        _load_network(network, weights.policy, weights.state, original_keys)
        return
    check_kinds(weights.policy, weights.state)
    file = AdapterFile(pipeline, denoiser_name, weights.policy, weights.state, original_blocks or {})
    if weights.is_lora:
        put_adapters(network, *file.lora())
    else:
        _add_to_weights(network, file.changes())


def load_checkpoint(
    network: nn.Module,
    run: str,
    weights: Mapping[str, Tensor],
    average: Sequence[Tensor] | None,
    adapters: Adapters | None,
) -> None:
    """Put the trained parameters of a checkpoint into a network; see `ModelAdapter.load_checkpoint`."""
    if adapters is not None:
        add_adapters(network, adapters)
    trained = {
        name: parameter.data for name, parameter in network.named_parameters() if adapters is None or "lora_" in name
    }
    if faults := misfits(shapes(trained), shapes(weights)):
        raise UserError(f"{unfit(run, network)}; {faults}; choose the `model` that they were made of")
    if average is not None:  # rounded as the weights, in whose place a run saves it
        weights = {name: mean.to(weights[name].dtype) for name, mean in zip(trained, average, strict=True)}
    for name, parameter in trained.items():
        parameter.copy_(weights[name])


# ---- whole networks


def _load_network(network: Any, policy: Policy, state: dict[str, Tensor], original_keys: Sequence[str]) -> None:
    """Take the weights of a whole network, in the keys of diffusers or those they were published in before."""
    state = _unwrapped(state)
    blocks = {key.rstrip(".").rpartition(".")[2] for key in original_keys}  # with or without what is put before them
    if any(blocks.intersection(key.split(".")) for key in state):
        state = _converted(network, policy, state)
    if faults := misfits(shapes(network.state_dict()), shapes(state)):
        raise UserError(f"{unfit(policy.path, network)}; {faults}; choose the `model` that they were made of")
    network.load_state_dict(state)


def _unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors without what was put before all of their names."""
    while prefix := next((p for p in WRAPPERS if state and all(key.startswith(p) for key in state)), None):
        state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return state


def _converted(network: Any, policy: Policy, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of an original layout under the keys of diffusers.

    Raises:
        UserError: if one is missing or left over.
    """
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES

    prefix = "" if any(key.startswith("model.diffusion_model.") for key in state) else "model.diffusion_model."
    rest = {prefix + key: tensor for key, tensor in state.items()}  # the converter of UNets wants it
    convert: Any = SINGLE_FILE_LOADABLE_CLASSES[type(network).__name__]["checkpoint_mapping_fn"]
    try:
        converted = convert(checkpoint=rest, config=dict(network.config))
    except LookupError as error:
        missing = error.args[0] if isinstance(error, KeyError) else "all of its blocks"
        raise UserError(f"{unfit(policy.path, network)}; missing: {missing}") from None
    # the converters of transformers take out what they use, that of UNets passes the very tensors on
    used = {id(tensor) for tensor in converted.values()}
    left = [key for key, tensor in rest.items() if id(tensor) not in used]
    if left:
        raise UserError(f"{unfit(policy.path, network)}; {listed('left over', left)}; give a file of the network alone")
    return converted


# ---- adapters


def _add_to_weights(network: Any, changes: Iterable[tuple[str, Tensor]]) -> None:
    """Add changes of layers to their weights, in float32 at least."""
    for layer, change in changes:
        weight: Tensor = network.get_submodule(layer).weight.data
        wide = torch.promote_types(weight.dtype, torch.float32)
        weight.copy_(weight.to(wide) + change.reshape(weight.shape).to(weight.device, wide))


def add_adapters(network: Any, adapters: Adapters) -> None:
    """Add new adapters to a network without any. They are float32 whatever its dtype, and start as the identity."""
    from peft import LoraConfig

    settings: dict[str, Any] = {"r": adapters.rank, "lora_alpha": adapters.alpha}
    targets = [name for target in adapters.targets for name in _linear_layers(network, target)]
    network.add_adapter(LoraConfig(**settings, target_modules=targets))
    widen_adapters(network)


def _linear_layers(network: Any, target: str) -> list[str]:
    """Return the names under which PEFT is to look for the layers whose names end in `target`.

    That is `target` itself, unless it is also the end of the name of a list of layers, which PEFT would refuse; then
    the whole names of the layers. In FLUX.2 `attn.to_out` is a layer in one kind of block, and a list in the other.
    """
    found = {name: one for name, one in network.named_modules() if name == target or name.endswith(f".{target}")}
    lists = [name for name, one in found.items() if isinstance(one, nn.ModuleList | nn.Sequential)]
    return [name for name in found if name not in lists] if lists else [target]


def put_adapters(network: Any, state: dict[str, Tensor], config: dict[str, Any] | None = None) -> None:
    """Add low-rank adapters to a network without any, in the dtype they have.

    Args:
        state: `<module>.lora_A.weight` and `.lora_B.weight` of each adapter.
        config: as PEFT has it; without one every alpha is its rank.
    """
    network.load_lora_adapter(state, prefix=None, metadata=config, adapter_name="default")
    if network.dtype not in (torch.float32, torch.float64):  # loading rounded the adapters to the network's dtype
        from peft import set_peft_model_state_dict

        widen_adapters(network)
        set_peft_model_state_dict(network, state)


def widen_adapters(network: nn.Module) -> None:
    """Make adapters float32, whatever the dtype of the network under them."""
    for name, parameter in network.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
