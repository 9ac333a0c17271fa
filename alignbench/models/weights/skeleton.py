"""A model of the right shapes without weights: built from its configuration files alone."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from alignbench.models.adapter import ModelAdapter
from alignbench.models.architectures import published
from alignbench.models.weights.hub import ask_hub
from alignbench.models.weights.loading import INDEX, is_network, read_index, used_parts
from alignbench.models.weights.without_weights import on_meta
from alignbench.reading import read_json_object


def skeleton(model: DictConfig, device: torch.device | str = "meta") -> ModelAdapter:
    """Return the adapter of a model whose tensors have shape and dtype, and on a real device arbitrary values.

    The architecture is that of the folder, for a single file that of `model.config`, else the published one that ships
    with the program, else that of the hub, of which only the configuration files are fetched. Tokenizers are left out.
    The miniatures are loaded, being small.

    Args:
        model: the `model` node of a configuration.
        device: where the tensors lie; on `meta` they take no memory.

    Raises:
        UserError: if the architecture is neither here nor on the hub.
    """
    node: Any = OmegaConf.to_container(model.adapter, resolve=True)
    pipeline_node = node.pop("pipeline")
    if "pretrained_model_name_or_path" in pipeline_node:
        path, revision = model.pretrained_model_name_or_path, model.revision
        if Path(path).is_file() and model.config is not None:  # which is of the architecture of its folder
            path, revision = model.config, None
        architecture = _architecture(path, revision)
        stand_ins = get_class(node["_target_"]).stand_ins
        pipeline = build_pipeline(architecture, getattr(torch, pipeline_node["torch_dtype"]), device, stand_ins)
    else:
        pipeline = instantiate(pipeline_node)
        for part in pipeline.components.values():
            if isinstance(part, nn.Module):
                nn.Module.to(part, device)
    return instantiate(node, _partial_=True)(pipeline)


def build_pipeline(
    architecture: dict[str, Any],
    dtype: torch.dtype,
    device: torch.device | str,
    stand_ins: Mapping[str, Callable[[], Any]],
) -> Any:
    """Return the diffusers pipeline of an architecture, without tokenizers.

    Args:
        stand_ins: of the family, as `ModelAdapter` has them.
    """
    import diffusers

    parts = {name: _part(dict(config), dtype, device) for name, config in architecture["parts"].items()}
    pipeline_class = getattr(diffusers, architecture["pipeline"])
    arguments = inspect.signature(pipeline_class).parameters.values()
    names = [one.name for one in arguments if one.default is inspect.Parameter.empty and one.name not in parts]
    absent: dict[str, Any] = {name: stand_ins[name]() if name in stand_ins else None for name in names}
    without_filter = {"requires_safety_checker": False} if "safety_checker" in absent else {}
    return pipeline_class(**parts, **absent, **without_filter)


def _part(config: dict[str, Any], dtype: torch.dtype, device: torch.device | str) -> Any:
    import diffusers

    name = config.pop("_class_name")
    if name.endswith("Scheduler"):
        return getattr(diffusers, name).from_config(config)
    network = on_meta(name, config, dtype)
    return network if str(device) == "meta" else network.to_empty(device=device)


def _architecture(path: str, revision: str | None) -> dict[str, Any]:
    if not Path(path).is_dir():
        known = published(path)
        if known is not None:
            return known
        ask_hub(path, INDEX, revision, f"model.pretrained_model_name_or_path={path}", "a diffusers folder", path)
    index = read_index(_file(path, INDEX, revision))
    parts = {}
    for name, (_, kind) in used_parts(index).items():
        if not (is_network(kind) or "Scheduler" in kind):
            continue
        filename = "scheduler_config.json" if "Scheduler" in kind else "config.json"
        config = read_json_object(_file(path, f"{name}/{filename}", revision), "fetch it again")
        parts[name] = config | {"_class_name": kind}
    return {"pipeline": index["_class_name"], "parts": parts}


def _file(path: str, filename: str, revision: str | None) -> Path:
    folder = Path(path)
    return folder / filename if folder.is_dir() else Path(hf_hub_download(path, filename, revision=revision))
