"""Checkpoints to resume from: the exact state of a run between two rollouts."""

import random
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm.auto import tqdm

from alignbench.errors import UserError
from alignbench.files import flush_files, sha256, write_json
from alignbench.store.checkpoint_files import DIGESTS, STATE, checkpoint_steps, damaged_file, read_state

NUM_KEPT = 2  # checkpoints of a run: the newest, and the one before, in case the newest is damaged


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

    A checkpoint is written beside its place, flushed to the disk with the sha256 of each of its files, and renamed. So
    a folder `step-N` is whole, and later damage to it is noticed. The newest two are kept.

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
            for older in checkpoint_steps(self.folder)[
                : 1 - NUM_KEPT
            ]:  # first, so that the disk never holds more than NUM_KEPT
                shutil.rmtree(self._place(older))
            partial.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        torch.save(_generator_states(), partial / f"generators-{self.accelerator.process_index}.pt")
        if self.shards:
            torch.save({name: part.state_dict() for name, part in self.shards.items()}, self._shards_file(partial))
        if main:
            for name, network in self.networks.items():
                save_file(_trainable(network), partial / f"{name}.safetensors")
            torch.save({name: part.state_dict() for name, part in self.parts.items()}, partial / STATE)
        self.accelerator.wait_for_everyone()
        if main:
            write_json(partial / DIGESTS, {file.name: sha256(file) for file in sorted(partial.iterdir())})
            flush_files(partial)
            shutil.rmtree(self._place(step), ignore_errors=True)  # a damaged one that was passed over
            partial.replace(self._place(step))
            flush_files(self._place(step))
        self.accelerator.wait_for_everyone()
        self._last = step

    def load_last(self) -> None:
        """Take back the newest undamaged state, if there are checkpoints. Damaged ones are named and passed over.

        Raises:
            UserError: if all are damaged, or the state is in other shards than this run's, or holds anything but
                tensors and plain values.
        """
        last = self._newest_undamaged()
        if last is None:
            return
        self._last = last
        folder = self._place(last)
        self._check_shards(folder)
        for name, network in self.networks.items():
            loaded = load_file(folder / f"{name}.safetensors")
            with torch.no_grad():
                for key, parameter in _trainable(network).items():
                    parameter.copy_(loaded[key])
        state = read_state(folder / STATE)
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        if self.shards:
            state = read_state(self._shards_file(folder))
            for name, part in self.shards.items():
                part.load_state_dict(state[name])
        generators = folder / f"generators-{self.accelerator.process_index}.pt"
        if generators.is_file():  # absent when the run goes on with more processes: draws are keyed, nothing is lost
            _set_generator_states(read_state(generators))

    def _newest_undamaged(self) -> int | None:
        """Return the step to go on from, the same on all processes; None where there are no checkpoints."""
        told: list[Any] = [None, None]
        if self.accelerator.is_main_process:
            told = list(self._found())
        step, error = broadcast_object_list(told)
        if error is not None:
            raise UserError(error)
        return step

    def _found(self) -> tuple[int | None, str | None]:
        """Return the newest undamaged step and no error, or no step and, if all are damaged, a sentence."""
        damaged = []
        for step in reversed(checkpoint_steps(self.folder)):
            file = damaged_file(self._place(step))
            if file is None:
                if damaged:
                    tqdm.write(f"  checkpoint  {', '.join(map(str, damaged))} is damaged: training goes on from {step}")
                return step, None
            damaged.append(file)
        if not damaged:
            return None, None
        return None, (
            f"{', '.join(map(str, damaged))} is damaged (sha256 differs), and there is no other checkpoint; restore "
            f"the file, or delete {self.folder} to train from the start"
        )

    def _place(self, step: int) -> Path:
        return self.folder / f"step-{step}"

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
    """Return the states of all generators, as tensors and plain values."""
    name, keys, *rest = cast(tuple, numpy.random.get_state(legacy=True))
    states = {"python": random.getstate(), "numpy": (name, keys.tolist(), *rest), "torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _set_generator_states(states: dict[str, Any]) -> None:
    random.setstate(states["python"])
    numpy.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])
