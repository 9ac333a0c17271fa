"""Checkpoints to resume from: the exact state of a run between two rollouts."""

import random
import shutil
from pathlib import Path
from typing import Any, Protocol

import numpy
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn


class Stateful(Protocol):
    """What has a state to keep."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...


class Checkpoints:
    """The checkpoints of one run, in folders `step-N`.

    A checkpoint is written beside its place and renamed when whole, so a folder `step-N` is always good; the newest one
    replaces the one before.

    Args:
        folder: where they lie.
        networks: the unwrapped networks whose trainable parameters are kept.
        parts: optimizer, schedulers, counters, statistics, by name.
    """

    def __init__(
        self, folder: Path, accelerator: Accelerator, networks: dict[str, nn.Module], parts: dict[str, Stateful]
    ) -> None:
        self.folder = folder
        self.accelerator = accelerator
        self.networks = networks
        self.parts = parts
        self._last = 0

    def due(self, step: int, interval: int) -> bool:
        """Return whether `interval` updates have passed since the last checkpoint."""
        return step // interval > self._last // interval

    def save(self, step: int) -> None:
        """Keep the present state as that after `step` updates."""
        main = self.accelerator.is_main_process
        partial = self.folder / "partial"
        if main:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        torch.save(_generator_states(), partial / f"generators-{self.accelerator.process_index}.pt")
        if main:
            for name, network in self.networks.items():
                save_file(_trainable(network), partial / f"{name}.safetensors")
            torch.save({name: part.state_dict() for name, part in self.parts.items()}, partial / "state.pt")
        self.accelerator.wait_for_everyone()
        if main:
            partial.replace(self.folder / f"step-{step}")
            for other in self._all():
                if other != step:
                    shutil.rmtree(self.folder / f"step-{other}")
        self.accelerator.wait_for_everyone()
        self._last = step

    def load_last(self) -> None:
        """Take back the newest state, if there is one."""
        steps = self._all()
        if not steps:
            return
        self._last = steps[-1]
        folder = self.folder / f"step-{self._last}"
        for name, network in self.networks.items():
            loaded = load_file(folder / f"{name}.safetensors")
            with torch.no_grad():
                for key, parameter in _trainable(network).items():
                    parameter.copy_(loaded[key])
        state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        generators = folder / f"generators-{self.accelerator.process_index}.pt"
        if generators.is_file():  # absent when the run goes on with more processes: draws are keyed, nothing is lost
            _set_generator_states(torch.load(generators, weights_only=False))

    def _all(self) -> list[int]:
        return sorted(int(path.name.removeprefix("step-")) for path in self.folder.glob("step-*"))


def _trainable(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.data for name, parameter in network.named_parameters() if parameter.requires_grad}


def _generator_states() -> dict[str, Any]:
    states = {"python": random.getstate(), "numpy": numpy.random.get_state(), "torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _set_generator_states(states: dict[str, Any]) -> None:
    random.setstate(states["python"])
    numpy.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])
