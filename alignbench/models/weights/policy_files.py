"""Policies on disk: saved in the layouts that diffusers reads, loaded from those and from what others published."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from alignbench.errors import UserError
from alignbench.models.weights.find_policy import LORA_FILES, DenoiserName, Policy, find_policy
from alignbench.models.weights.state_dicts import (
    listed,
    misfits,
    read_state_dict,
    safetensors_header,
    shapes,
    sort_notes,
)
from alignbench.reading import parse_json, read_json_object

LORA_FILE = LORA_FILES[0]
# what programs put before all keys of a network, its name in a pipeline among it
WRAPPERS = ("module.", "_orig_mod.", *(f"{name}." for name in get_args(DenoiserName)))
PEFT_PREFIX = "base_model.model."  # before all keys of PEFT's adapters
ADAPTER_SETTINGS = (
    "r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules", "exclude_modules", "layers_to_transform",
    "layers_pattern", "use_rslora", "use_dora", "lora_bias", "bias", "fan_in_fan_out", "modules_to_save",
)  # fmt: skip
IS_ADAPTER = re.compile(r"lora|\.alpha$|dora_scale|hada_|lokr_|oft_|\.diff(_b)?$")
# the two matrices of a LoRA as programs call them, PEFT with the name of the adapter between; and its alpha
IS_LORA = re.compile(r"lora(_A|_B|\.down|\.up|_down|_up)(\.\w+)?\.weight$|\.alpha$")


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
        """Whether these are low-rank adapters and not a whole network."""
        return any(IS_ADAPTER.search(key) for key in self.state)


def read_policy(denoiser_name: DenoiserName, path: Path | str, revision: str | None = None) -> SavedWeights:
    """Read trained weights in whatever layout they lie; see `ModelAdapter.load_policy`."""
    policy = find_policy(str(path), denoiser_name, revision)
    state: dict[str, Tensor] = {}
    for file in policy.files:
        state |= read_state_dict(file)
    return SavedWeights(policy, state)


def put_policy(
    pipeline: Any, denoiser_name: DenoiserName, weights: SavedWeights, original_keys: Sequence[str] = ()
) -> None:
    """Put saved weights into a pipeline's denoiser, which has no adapters; see `ModelAdapter.load_policy`.

    Args:
        original_keys: how keys of blocks begin where weights are in the layout that they were first published in.
    """
    if weights.is_lora:
        _load_adapters(pipeline, denoiser_name, weights.policy, weights.state)
    else:
        _load_network(getattr(pipeline, denoiser_name), weights.policy, weights.state, original_keys)


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
        raise UserError(f"{_told(run, network)}; {faults}; choose the `model` that they were made of")
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
        raise UserError(f"{_told(policy.path, network)}; {faults}; choose the `model` that they were made of")
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
        raise UserError(f"{_told(policy.path, network)}; missing: {missing}") from None
    # the converters of transformers take out what they use, that of UNets passes the very tensors on
    used = {id(tensor) for tensor in converted.values()}
    left = [key for key, tensor in rest.items() if id(tensor) not in used]
    if left:
        raise UserError(f"{_told(policy.path, network)}; {listed('left over', left)}; give a file of the network alone")
    return converted


def _told(path: str, network: Any) -> str:
    return f"the weights of model.policy={path} do not fit the {type(network).__name__} of this model"


# ---- adapters


def _load_adapters(pipeline: Any, denoiser_name: DenoiserName, policy: Policy, state: dict[str, Tensor]) -> None:
    """Add low-rank adapters, in the keys of diffusers, of PEFT, or of kohya's scripts and ComfyUI."""
    network: Any = getattr(pipeline, denoiser_name)
    if others := [key for key in state if not IS_LORA.search(key)]:
        raise UserError(
            f"model.policy={policy.path} holds more than a plain LoRA, such as parts of DoRA, LoHa or LoKr, which "
            f"would not be used; {listed('left over', others)}; merge it into the network with the program that made it"
        )
    config = _adapter_config(policy, denoiser_name)
    if config is None:
        state = _with_alpha_inside(state, policy)
    state = _in_keys_of_peft(pipeline, denoiser_name, policy, state)
    _check_adapters(network, policy, state)
    put_adapters(network, state, config)


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


def _adapter_config(policy: Policy, denoiser: str) -> dict[str, Any] | None:
    """Return rank, alpha and targets where PEFT or diffusers saved them along."""
    if policy.peft_config is not None:
        return _kept(read_json_object(policy.peft_config, "fetch it again"))
    if policy.files[0].suffix != ".safetensors":
        return None
    file = policy.files[0]
    kept = safetensors_header(file).get("__metadata__", {})
    notes = kept.get("lora_adapter_metadata") if isinstance(kept, dict) else None
    if notes is None:
        return None
    settings = parse_json(notes, f"lora_adapter_metadata of {file}", "fetch it again") if isinstance(notes, str) else 0
    if not isinstance(settings, dict):
        raise UserError(f"lora_adapter_metadata of {file} is no object; fetch it again")
    prefix = f"{denoiser}."
    return _kept({key.removeprefix(prefix): value for key, value in settings.items() if key.startswith(prefix)})


def _kept(config: dict[str, Any]) -> dict[str, Any]:
    """Return what decides how adapters act. PEFT would import the modules that other settings name."""
    return {key: value for key, value in config.items() if key in ADAPTER_SETTINGS}


def _with_alpha_inside(state: dict[str, Tensor], policy: Policy) -> dict[str, Tensor]:
    """Multiply the alpha / rank of each adapter into its second matrix, so that none is left to be lost on the way.

    diffusers keeps an alpha of its own for each layer of some families only. Without an alpha it is the rank.
    """
    state = dict(state)
    for key in [key for key in state if key.endswith(".alpha")]:
        name, alpha = key.removesuffix(".alpha"), float(state.pop(key))
        for up, down in (("lora_up", "lora_down"), ("lora_B", "lora_A"), ("lora.up", "lora.down"), ("up", "down")):
            if f"{name}.{up}.weight" in state and f"{name}.{down}.weight" in state:
                rank = state[f"{name}.{down}.weight"].shape[0]
                state[f"{name}.{up}.weight"] = state[f"{name}.{up}.weight"] * (alpha / rank)
                break
        else:
            raise UserError(f"model.policy={policy.path} has an alpha without its adapter; left over: {key}")
    return state


def _in_keys_of_peft(
    pipeline: Any, denoiser_name: DenoiserName, policy: Policy, state: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Return adapters of the denoiser named as PEFT names them in it, `<module>.lora_A.weight`."""
    from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft

    network: Any = getattr(pipeline, denoiser_name)
    prefix, layers = f"{denoiser_name}.", dict(network.named_modules())
    if all(key.startswith(PEFT_PREFIX) for key in state):
        state = {prefix + key.removeprefix(PEFT_PREFIX): tensor for key, tensor in state.items()}
    elif all(key.partition(".lora_")[0] in layers for key in convert_unet_state_dict_to_peft(state)):
        # as save_attn_procs of diffusers wrote them, too: <module>.processor.to_q_lora.down.weight
        state = {prefix + key: tensor for key, tensor in state.items()}
    if not all(key.startswith(prefix) for key in state):
        settings = {"unet_config": network.config} if denoiser_name == "unet" else {}

        def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
            found = pipeline.lora_state_dict(dict(state), **settings)
            return found[0] if isinstance(found, tuple) else found

        try:
            unused = _unused(convert, state)
            state = convert(state)
        except (ValueError, KeyError) as error:  # what diffusers says of keys that it does not know
            reason = " ".join(str(error).split())
            raise UserError(f"the adapters of model.policy={policy.path} cannot be read: {reason}") from None
        if unused:
            raise UserError(
                f"model.policy={policy.path} has adapters of layers that diffusers does not read, which would not be "
                f"used; {listed('left over', unused)}"
            )
    if strange := [key for key in state if not key.startswith(prefix)]:
        raise UserError(
            f"model.policy={policy.path} has adapters of more than the {denoiser_name}, which alone is loaded; "
            f"{listed('left over', strange)}"
        )
    state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return state if any(".lora_A." in key for key in state) else convert_unet_state_dict_to_peft(state)


def _unused(convert: Callable[[dict[str, Tensor]], dict[str, Tensor]], state: dict[str, Tensor]) -> list[str]:
    """Return the keys of tensors that a converter of diffusers drops, some of which it mentions in its log alone.

    It is found by trying: the converter is given tensors of the same shapes, each filled with a number of its own.
    """
    marks = {float(number): key for number, key in enumerate(state, start=1)}
    marked = {key: torch.full(state[key].shape, mark) for mark, key in marks.items()}
    found = {mark for tensor in convert(marked).values() for mark in tensor.unique().tolist()}
    return [key for mark, key in marks.items() if mark not in found]


def _check_adapters(network: nn.Module, policy: Policy, state: dict[str, Tensor]) -> None:
    """Refuse adapters that lack a half or belong to no layer; diffusers would pass over them with a warning."""
    layers = dict(network.named_modules())
    expected: dict[str, tuple[int, ...]] = {}
    for key in state:
        name, _, end = key.partition(".lora_")
        weight = getattr(layers.get(name), "weight", None)
        if end in ("A.weight", "B.weight") and isinstance(weight, Tensor) and weight.ndim >= 2:
            rank = state.get(f"{name}.lora_A.weight", state[key]).shape[0]
            one = (1,) * (weight.ndim - 2)
            expected[f"{name}.lora_A.weight"] = (rank, *weight.shape[1:])
            expected[f"{name}.lora_B.weight"] = (weight.shape[0], rank, *one)
    if faults := misfits(expected, shapes(state)):
        raise UserError(f"{_told(policy.path, network)}; {faults}; choose the `model` that they were made of")


def widen_adapters(network: nn.Module) -> None:
    """Make adapters float32, whatever the dtype of the network under them."""
    for name, parameter in network.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
