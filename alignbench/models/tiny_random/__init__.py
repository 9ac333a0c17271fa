"""Tiny random pipelines of every family, for tests: genuine diffusers classes, built offline within a second."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch

from alignbench.models.adapter import ModelAdapter
from alignbench.models.find_families import FAMILIES
from alignbench.models.tiny_random.parts import Tiny

RESOLUTION = 32
TINY: Mapping[str, Tiny] = {name: import_module(f"{__name__}.{name}").TINY for name in FAMILIES}


def tiny_adapter(family: str, **pipeline_arguments: Any) -> ModelAdapter:
    """Return the adapter of a tiny random pipeline; `family` is the name of its module."""
    tiny = TINY[family]
    return tiny.adapter(tiny.pipeline(**pipeline_arguments), RESOLUTION, tiny.lora_targets, **tiny.settings)


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
