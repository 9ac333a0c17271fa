"""Adapters in files: which layers of a network they belong to, whatever program named them, and what they add."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from alignbench.errors import UserError
from alignbench.models.weights.find_policy import DenoiserName, Policy
from alignbench.models.weights.state_dicts import listed, misfits, safetensors_header, shapes
from alignbench.models.weights.weight_changes import CHANGE_PARTS, change_size, weight_change
from alignbench.reading import parse_json, read_json_object

# the lists of blocks in the layout that weights were first published in and here -> layers of a block there and here,
# several here where they are one there, in the order of its rows
BlockNames = Mapping[tuple[str, str], Mapping[str, tuple[str, ...]]]

PEFT_PREFIX = "base_model.model."  # before all keys of PEFT's adapters
ADAPTER_SETTINGS = (
    "r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules", "exclude_modules", "layers_to_transform",
    "layers_pattern", "use_rslora", "use_dora", "lora_bias", "bias", "fan_in_fan_out", "modules_to_save",
)  # fmt: skip
IS_ADAPTER = re.compile(r"lora|\.alpha$|dora_scale|hada_|lokr_|oft_|\.diff(_b)?$")
# the two matrices of a LoRA as programs call them, PEFT with the name of the adapter between; and its alpha
IS_LORA = re.compile(r"lora(_A|_B|\.down|\.up|_down|_up)(\.\w+)?\.weight$|\.alpha$")
IS_CHANGE = re.compile(rf"\.({'|'.join(CHANGE_PARTS)})$")
KEY = re.compile(rf"(.+?)\.(?:lora[_.](A|B|down|up)(?:\.\w+)?\.weight|(alpha|{'|'.join(CHANGE_PARTS)}))")
HALVES = {"A": "down", "B": "up"}
PREFIXES = ("", "transformer_", "unet_", "diffusion_model_", "model_diffusion_model_", "base_model_model_",
            "lora_unet_", "lora_transformer_", "lycoris_")  # fmt: skip
# layers of attention that diffusers and other programs hold as one -> the layers that they are
FUSED = {
    "to_qkv": ("to_q", "to_k", "to_v"),
    "to_kv": ("to_k", "to_v"),
    "to_added_qkv": ("add_q_proj", "add_k_proj", "add_v_proj"),
}
# how keys begin -> whose layout that is
LAYOUTS = {
    "lora_unet_": "kohya's scripts",
    "lycoris_": "LyCORIS",
    "diffusion_model.": "ComfyUI and ai-toolkit",
    "lora_transformer_": "OneTrainer",
}
# what a key has -> what it is a part of
OTHER_KINDS = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "lora_mid": "LoCon with a third matrix",
    "oft_": "OFT",
    ".diff": "whole changes of weights",
    "bias": "biases",
}


def holds_adapters(state: Mapping[str, Tensor]) -> bool:
    """Say whether a file has adapters and not a whole network."""
    return any(IS_ADAPTER.search(key) for key in state)


def lacks_low_rank(state: Mapping[str, Tensor]) -> bool:
    """Say whether some of the adapters of a file are LoKr or LoHa."""
    return any(IS_CHANGE.search(key) for key in state)


def check_kinds(policy: Policy, state: Mapping[str, Tensor]) -> None:
    """Refuse a file of adapters that has tensors of another kind than LoRA, LoKr and LoHa, which would not be used."""
    if others := [key for key in state if not IS_LORA.search(key) and not IS_CHANGE.search(key)]:
        kinds = {kind for part, kind in OTHER_KINDS.items() if any(part in key for key in others)}
        told = f" ({', '.join(sorted(kinds))})" if kinds else ""
        raise UserError(
            f"model.policy={policy.path} holds more than LoRA, LoKr and LoHa{told}, which would not be used; "
            f"{listed('left over', others)}; merge it into the network with the program that made it"
        )


def unfit(path: str, network: Any) -> str:
    """Return the beginning of the sentence about weights of another model."""
    return f"the weights of model.policy={path} do not fit the {type(network).__name__} of this model"


@dataclass(frozen=True, eq=False)
class AdapterFile:
    """A file of adapters for a pipeline's denoiser, which has none.

    Attributes:
        state: the tensors under the names in the file.
        original_blocks: what the layers of blocks were called where weights were first published.
    """

    pipeline: Any
    denoiser_name: DenoiserName
    policy: Policy
    state: Mapping[str, Tensor]
    original_blocks: BlockNames

    @property
    def network(self) -> Any:
        """The denoiser."""
        return getattr(self.pipeline, self.denoiser_name)

    def lora(self) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
        """Return the LoRA of the file.

        Returns:
            `<layer>.lora_A.weight` and `.lora_B.weight` of each layer; and what PEFT is told of them, None if each
            alpha is its rank.

        Raises:
            UserError: a tensor belongs to no layer, or does not fit it.
        """
        config = _adapter_config(self.policy, self.denoiser_name)
        if config is None:
            state = self._in_keys_of_peft(_with_alpha_inside(self.state, self.policy), self.original_blocks)
        else:  # it has ranks and alphas by the names of layers, so none may be split
            state = self._in_keys_of_peft(self.state, {})
        _check_adapters(self.network, self.policy, state)
        return state, config

    # ---- LoKr and LoHa

    def changes(self) -> Iterator[tuple[str, Tensor]]:
        """Yield layers, and what the adapters of the file add to the weight of each, [m, n], float32.

        Raises:
            UserError: before the first, if a tensor would not be used, belongs to no layer or does not fit it.
        """
        path = self.policy.path
        if _adapter_config(self.policy, self.denoiser_name) is not None:
            raise UserError(
                f"model.policy={path} is a LoKr or LoHa of PEFT, whose scale is in its configuration and is not read; "
                "merge it into the network with the program that made it"
            )
        modules: dict[str, dict[str, Tensor]] = {}
        for key, tensor in self.state.items():
            if (match := KEY.fullmatch(key)) is None:
                raise UserError(f"model.policy={path} has a key of no known layout; left over: {key}")
            module, half, part = match.groups()
            modules.setdefault(module, {})[part or HALVES.get(half, half)] = tensor
        sizes: dict[str, tuple[int, int]] = {}
        for module, parts in modules.items():
            try:
                sizes[module] = change_size(parts)
            except ValueError as error:
                raise UserError(f"the adapter {module} of model.policy={path} cannot be read: {error}") from None
        rows = self._rows_of_layers(sizes)
        weights = {name.removesuffix(".weight"): weight for name, weight in self.network.named_parameters()}
        expected, found = {}, {}
        for module, layer in ((module, layer) for module, layers in rows.items() for layer in layers):
            found[layer] = (len(rows[module][layer]), sizes[module][1])
            if layer in weights and weights[layer].ndim >= 2:
                expected[layer] = (len(weights[layer]), weights[layer][0].numel())
        if faults := misfits(expected, found):
            raise UserError(f"{unfit(path, self.network)}; {faults}; choose the `model` that they were made of")
        for module, layers in rows.items():
            change = weight_change(modules[module])
            yield from ((layer, change[own]) for layer, own in layers.items())

    def _rows_of_layers(self, sizes: Mapping[str, tuple[int, int]]) -> dict[str, dict[str, Tensor]]:
        """Return by module which layers it is, and which rows of its change are theirs.

        It is found by trying, whatever the names: the modules are read as a LoRA of rank 1 in whose matrices stand the
        number of the module and those of its rows.

        Args:
            sizes: rows and columns of the change of each module.
        """
        most = sum(len(weight) for weight in self.network.parameters() if weight.ndim)
        if large := [f"{module} has {rows}" for module, (rows, _) in sizes.items() if rows > most]:
            raise UserError(f"{unfit(self.policy.path, self.network)}; {listed('too many rows', large)}")
        numbers = {float(number): module for number, module in enumerate(sizes, start=1)}
        state: dict[str, Tensor] = {}
        for number, module in numbers.items():
            state[f"{module}.lora_down.weight"] = torch.full((1, 1), number, dtype=torch.float64)
            state[f"{module}.lora_up.weight"] = torch.arange(sizes[module][0], dtype=torch.float64)[:, None]
        state = self._in_keys_of_peft(state, self.original_blocks)
        found: dict[str, dict[str, Tensor]] = {module: {} for module in sizes}
        for key, number in state.items():
            layer, _, half = key.partition(".lora_")
            if half == "A.weight":
                found[numbers[number.item()]][layer] = state[f"{layer}.lora_B.weight"][:, 0].long()
        return found

    # ---- names

    def _in_keys_of_peft(self, state: Mapping[str, Tensor], original_blocks: BlockNames) -> dict[str, Tensor]:
        """Return LoRA of the denoiser named as PEFT names them in it, `<layer>.lora_A.weight`."""
        from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft

        known = _known_names(self.network, original_blocks)
        if (own := self._by_known_names(state, known)) is not None:
            return own
        state, prefix, layers = dict(state), f"{self.denoiser_name}.", dict(self.network.named_modules())
        if all(key.startswith(PEFT_PREFIX) for key in state):
            state = {prefix + key.removeprefix(PEFT_PREFIX): tensor for key, tensor in state.items()}
        elif all(key.partition(".lora_")[0] in layers for key in convert_unet_state_dict_to_peft(state)):
            # as save_attn_procs of diffusers wrote them: <module>.processor.to_q_lora.down.weight
            state = {prefix + key: tensor for key, tensor in state.items()}
        if not all(key.startswith(prefix) for key in state):
            state = self._converted(state)
        outside = [key for key in state if not key.startswith(prefix)]
        if unknown := [key for key in outside if _layers(key.partition(".lora")[0], known) is None]:
            self._refuse_names(unknown)
        state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
        return state if any(".lora_A." in key for key in state) else convert_unet_state_dict_to_peft(state)

    def _refuse_names(self, keys: Sequence[str]) -> NoReturn:
        """Say that no layers are known by these names: those of a text encoder, or of a layout."""
        layout = next((whose for begin, whose in LAYOUTS.items() if min(keys).startswith(begin)), None)
        if layout is None:
            raise UserError(
                f"model.policy={self.policy.path} has adapters of more than the {self.denoiser_name}, which alone is "
                f"loaded; {listed('left over', keys)}"
            )
        raise UserError(
            f"model.policy={self.policy.path} has the layout of {layout}, in which these layers of a "
            f"{type(self.network).__name__} are not known; {listed('left over', keys)}; convert it to the layout of "
            "diffusers, or merge it into the network with the program that made it"
        )

    def _by_known_names(
        self, state: Mapping[str, Tensor], known: Mapping[str, tuple[str, ...]]
    ) -> dict[str, Tensor] | None:
        """Return LoRA under the names of the network's layers, `<layer>.lora_A.weight`; None if a name is unknown.

        Where several layers were one, each gets the first matrix and its rows of the second: their product is the same.
        """
        found: dict[str, Tensor] = {}
        for key, tensor in state.items():
            name, half = match.group(1, 2) if (match := KEY.fullmatch(key)) else ("", None)
            layers = _layers(name, known)
            if layers is None or half is None:
                return None
            end = "A" if half in ("A", "down") else "B"
            parts: Sequence[Tensor] = [tensor] * len(layers)
            if end == "B" and len(layers) > 1:
                rows = [len(self.network.get_submodule(layer).weight) for layer in layers]
                if tensor.shape[:1] != (sum(rows),):
                    raise UserError(
                        f"{unfit(self.policy.path, self.network)}; of another shape: {key} is {tuple(tensor.shape)} "
                        f"instead of {(sum(rows), *tensor.shape[1:])}; choose the `model` that it was made of"
                    )
                parts = tensor.split(rows)
            for layer, part in zip(layers, parts, strict=True):
                if f"{layer}.lora_{end}.weight" in found:
                    raise UserError(
                        f"model.policy={self.policy.path} has two adapters of {layer}; one is {key}; remove one"
                    )
                found[f"{layer}.lora_{end}.weight"] = part
        return found

    def _converted(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return LoRA as diffusers' own loader of the family names them."""
        settings = {"unet_config": self.network.config} if self.denoiser_name == "unet" else {}

        def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
            found = self.pipeline.lora_state_dict(dict(state), **settings)
            return found[0] if isinstance(found, tuple) else found

        try:
            unused = _unused(convert, state)
            state = convert(state)
        except (ValueError, LookupError, RuntimeError, AssertionError) as error:  # of keys and sizes it does not know
            reason = " ".join(str(error).split()) or "diffusers does not know their sizes"
            raise UserError(f"the adapters of model.policy={self.policy.path} cannot be read: {reason}") from None
        if unused:
            raise UserError(
                f"model.policy={self.policy.path} has adapters of layers that diffusers does not read, which would not "
                f"be used; {listed('left over', unused)}"
            )
        return state


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


def _with_alpha_inside(state: Mapping[str, Tensor], policy: Policy) -> dict[str, Tensor]:
    """Multiply the alpha / rank of each adapter into its second matrix, so that none is left to be lost on the way.

    diffusers keeps an alpha of its own for each layer of some families only. Without an alpha it is the rank.
    """
    state = dict(state)
    keys = {_plain(key): key for key in state}
    for key in [key for key in state if key.endswith(".alpha")]:
        name, alpha = _plain(key.removesuffix(".alpha")), torch.as_tensor(state.pop(key))
        for up, down in (("lora_up", "lora_down"), ("lora_B", "lora_A"), ("up", "down")):
            if (up_key := keys.get(f"{name}_{up}_weight")) and (down_key := keys.get(f"{name}_{down}_weight")):
                if alpha.numel() != 1 or 0 in (state[down_key].ndim, state[down_key].numel()):
                    raise UserError(
                        f"model.policy={policy.path} has an alpha of nothing or that is no number: {key}; fetch it anew"
                    )
                state[up_key] = state[up_key] * (float(alpha) / len(state[down_key]))
                break
        else:
            raise UserError(f"model.policy={policy.path} has an alpha without its adapter; left over: {key}")
    return state


def _check_adapters(network: nn.Module, policy: Policy, state: dict[str, Tensor]) -> None:
    """Refuse adapters that lack a half or belong to no layer; diffusers would pass over them with a warning."""
    layers = dict(network.named_modules())
    expected: dict[str, tuple[int, ...]] = {}
    for key in state:
        name, _, end = key.partition(".lora_")
        weight = getattr(layers.get(name), "weight", None)
        if end in ("A.weight", "B.weight") and isinstance(weight, Tensor) and weight.ndim >= 2:
            rank = next(iter(state.get(f"{name}.lora_A.weight", state[key]).shape), 0)
            one = (1,) * (weight.ndim - 2)
            expected[f"{name}.lora_A.weight"] = (rank, *weight.shape[1:])
            expected[f"{name}.lora_B.weight"] = (weight.shape[0], rank, *one)
    if faults := misfits(expected, shapes(state)):
        raise UserError(f"{unfit(policy.path, network)}; {faults}; choose the `model` that they were made of")


def _known_names(network: Any, original_blocks: BlockNames) -> dict[str, tuple[str, ...]]:
    """Return the layers of a network by the names that files have for them, with underscores for dots."""
    layers = {name for name, layer in network.named_modules() if isinstance(getattr(layer, "weight", None), Tensor)}
    known: dict[str, tuple[str, ...]] = {name: (name,) for name in layers}
    for name in layers:
        parent, _, last = name.rpartition(".")
        for fused, parts in FUSED.items():
            if last == parts[0]:
                known.setdefault(f"{parent}.{fused}", tuple(f"{parent}.{part}" for part in parts))
    for (theirs, ours), block in original_blocks.items():
        for number in range(len(network.get_submodule(ours))):
            for original, parts in block.items():
                known[f"{theirs}.{number}.{original}"] = tuple(f"{ours}.{number}.{part}" for part in parts)
    return {_plain(name): parts for name, parts in known.items() if layers.issuperset(parts)}


def _layers(name: str, known: Mapping[str, tuple[str, ...]]) -> tuple[str, ...] | None:
    """Return the layers of a name, whatever a program put before it; None if they are not known."""
    name = _plain(name)
    names = (name.removeprefix(prefix) for prefix in PREFIXES if name.startswith(prefix))
    return next((known[one] for one in names if one in known), None)


def _plain(name: str) -> str:
    return name.replace(".", "_")


def _unused(convert: Callable[[dict[str, Tensor]], dict[str, Tensor]], state: dict[str, Tensor]) -> list[str]:
    """Return the keys of tensors that a converter of diffusers drops, some of which it mentions in its log alone.

    It is found by trying: the converter is given tensors of the same shapes, each filled with a number of its own.
    """
    marks = {float(number): key for number, key in enumerate(state, start=1)}
    marked = {key: torch.full(state[key].shape, mark) for mark, key in marks.items()}
    found = {mark for tensor in convert(marked).values() for mark in tensor.unique().tolist()}
    return [key for mark, key in marks.items() if mark not in found]
