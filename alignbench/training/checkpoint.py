"""Checkpoints to resume from: the exact state of a run between two rollouts."""

import random
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn

from alignbench.errors import UserError


class Stateful(Protocol):
    """What has a state to keep."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...


@dataclass
class Counters:
    """A dataclass that is its own state to keep: what it has counted so far."""

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)


class Checkpoints:
    """The checkpoints of one run, in folders `step-N`.

    A checkpoint is written beside its place and renamed when whole, so a folder `step-N` is always good; the newest one
    replaces the one before.

    Args:
        folder: where they lie.
        networks: the unwrapped networks whose trainable parameters are kept.
        parts: what is alike on all processes: counters, schedulers, statistics, by name.
        shards: what each process has a part of its own of, by name.
    """

    def __init__(
        self,
        folder: Path,
        accelerator: Accelerator,
        networks: dict[str, nn.Module],
        parts: dict[str, Stateful],
        shards: dict[str, Stateful] | None = None,
    ) -> None:
        self.folder = folder
        self.accelerator = accelerator
        self.networks = networks
        self.parts = parts
        self.shards = shards or {}
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
        if self.shards:
            torch.save({name: part.state_dict() for name, part in self.shards.items()}, self._shards_file(partial))
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
        """Take back the newest state, if there is one.

        Raises:
            UserError: if it is in other shards than this run's.
        """
        steps = self._all()
        if not steps:
            return
        self._last = steps[-1]
        folder = self.folder / f"step-{self._last}"
        self._check_shards(folder)
        for name, network in self.networks.items():
            loaded = load_file(folder / f"{name}.safetensors")
            with torch.no_grad():
                for key, parameter in _trainable(network).items():
                    parameter.copy_(loaded[key])
        state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        if self.shards:
            state = torch.load(self._shards_file(folder), map_location="cpu", weights_only=True)
            for name, part in self.shards.items():
                part.load_state_dict(state[name])
        generators = folder / f"generators-{self.accelerator.process_index}.pt"
        if generators.is_file():  # absent when the run goes on with more processes: draws are keyed, nothing is lost
            _set_generator_states(torch.load(generators, weights_only=False))

    def _shards_file(self, folder: Path) -> Path:
        return folder / f"shards-{self.accelerator.process_index}-of-{self.accelerator.num_processes}.pt"

    def _check_shards(self, folder: Path) -> None:
        found = sorted(folder.glob("shards-*"))
        written_by = found[0].stem.rpartition("-")[2] if found else "whole networks"
        if written_by != (str(self.accelerator.num_processes) if self.shards else "whole networks"):
            by = f"{written_by} processes that shared the weights" if found else "processes that had whole weights each"
            raise UserError(
                f"{folder} was written by {by}, and goes on only in the same way; start the run so again, or delete "
                f"{self.folder} to begin anew"
            )

    def _all(self) -> list[int]:
        return sorted(int(path.name.removeprefix("step-")) for path in self.folder.glob("step-*"))


class Weights:
    """The values of some parameters as a state to keep."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = parameters

    def state_dict(self) -> dict[str, Any]:
        return {str(number): parameter.data for number, parameter in enumerate(self.parameters)}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        for number, parameter in enumerate(self.parameters):
            parameter.copy_(state[str(number)])


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
