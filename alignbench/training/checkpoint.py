"""Checkpoints to resume from: the exact state of a run between two rollouts."""

import functools
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, cast

import numpy
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm.auto import tqdm

from alignbench.errors import UserError
from alignbench.files import flush_files, sha256, stored_in, write_json
from alignbench.store.checkpoint_files import DIGESTS, STATE, checkpoint_steps, damaged_file, read_state
from alignbench.training.background_write import BackgroundWrite, MainMemory

LATER = {"scaler"}  # parts that checkpoints of version 0.1.0 lack
NUM_KEPT = 2  # checkpoints of a run: the newest, and the one before, in case the newest is damaged


class Stateful(Protocol):
    """What has a state to keep."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...


@dataclass
class Counters:
    """Where training stands: a dataclass that is its own state to keep.

    Attributes:
        step: number of updates made.
        train_seconds: that they took, the same on all processes.
    """

    step: int = 0
    train_seconds: float = 0.0

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)


class Checkpoints:
    """The checkpoints of one run, in folders `step-N`.

    A checkpoint is written beside its place, flushed to the disk with the sha256 of each of its files, and renamed. So
    a folder `step-N` is whole, and later damage to it is noticed. The newest two are kept.

    In the background, `save` copies the state to main memory, and a thread writes it while training goes on. At most
    one checkpoint is being written. `with` a `Checkpoints`, the last one is stored at the end, also that of an error.

    Args:
        folder: where they lie.
        progress: where training stands.
        networks: the unwrapped networks whose trainable parameters are kept.
        parts: what is alike on all processes: counters, schedulers, statistics, by name.
        shards: what each process has a part of its own of, by name.
        in_background: whether training goes on while a checkpoint is written. The main memory for a copy of the state
            is kept.
    """

    def __init__(
        self,
        folder: Path,
        accelerator: Accelerator,
        progress: Counters,
        networks: dict[str, nn.Module],
        parts: dict[str, Stateful],
        shards: dict[str, Stateful] | None = None,
        in_background: bool = False,
    ) -> None:
        self.folder = folder
        self.accelerator = accelerator
        self.progress = progress
        self.networks = networks
        self.parts = {**parts, "progress": progress}
        self.shards = shards or {}
        self.in_background = in_background
        self._memory = MainMemory(pinned=accelerator.device.type == "cuda")
        self._writing: BackgroundWrite | None = None
        self._last = replace(progress)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        elif self._writing is not None:  # other processes may not know of the error, or be gone
            self._writing.end_alone()
            self._leave_nothing_unfinished()

    @property
    def is_current(self) -> bool:
        """Whether no update was made since the last checkpoint, or the start."""
        return self.progress.step == self._last.step

    def due(self, steps: int, minutes: float | None) -> bool:
        """Return whether so many updates or so much time of training have passed since the last checkpoint."""
        now, last = self.progress, self._last
        is_late = minutes is not None and now.train_seconds - last.train_seconds >= 60 * minutes
        return now.step // steps > last.step // steps or is_late

    def save(self, wait: bool = False) -> None:
        """Keep the present state. A checkpoint that is still being written is waited for first.

        Args:
            wait: write it now, and not in the background.

        Raises:
            FloatingPointError: on all processes, if a weight is not finite: a checkpoint is always good to go on from.
            OSError: on all processes, if this checkpoint or the one before cannot be stored; then nothing of it is
                left, and the last one is. One that is written in the background raises it when it is waited for.
        """
        self.finish()
        if not self._is_finite():
            raise FloatingPointError(f"some weights are not finite after update {self.progress.step}")
        in_background = self.in_background and not wait
        partial, place = self._partial, self._place(self.progress.step)
        try:
            # in the background, two whole ones stay until the third is whole, since writing takes long
            self._together(self._make_room, partial, NUM_KEPT if in_background else NUM_KEPT - 1)
            if in_background:
                self._write_in_background(partial, place)
            else:
                self._together(self._write, self._content(), partial)
                self._together(self._finish, partial, place)
        finally:
            if self._writing is None:
                self._leave_nothing_unfinished()
        self._last = replace(self.progress)

    def finish(self) -> None:
        """Return when the last checkpoint is stored. All processes must call it.

        Raises:
            OSError: on all processes, as `save`.
        """
        if self._writing is None:
            return
        try:
            self._together(self._writing.written.result)
            self._writing.all_wrote()
            self._together(self._writing.completed.result)
        finally:
            self._writing.give_up()
            self._leave_nothing_unfinished()

    def settle(self) -> None:
        """Return when the present state is stored, by the last checkpoint or a new one; raises what `save` does."""
        if self.is_current:
            self.finish()
        else:
            self.save(wait=True)

    def _write_in_background(self, partial: Path, place: Path) -> None:
        content = self._memory.copy(self._content())
        self._writing = BackgroundWrite(
            partial,
            self.accelerator.process_index,
            self.accelerator.num_processes,
            write=functools.partial(self._write, content, partial),
            complete=functools.partial(self._complete, partial, place),
        )

    def _leave_nothing_unfinished(self) -> None:
        self._writing = None
        if self.accelerator.is_main_process:
            shutil.rmtree(self._partial, ignore_errors=True)

    def _is_finite(self) -> bool:
        """Say whether all trained weights are finite, those of other processes included."""
        own = [*map(_trainable, self.networks.values())]
        own += [part.state_dict() for part in self.shards.values() if isinstance(part, Weights)]
        device = self.accelerator.device
        wrong = ((~weights.isfinite()).any().to(device) for state in own for weights in state.values())
        total = sum(wrong, start=torch.zeros((), dtype=torch.int64, device=device))  # read once, not for each tensor
        return int(cast(torch.Tensor, self.accelerator.reduce(total, reduction="sum"))) == 0

    def _together(self, do: Callable[..., None], *arguments: Any) -> None:
        """Do a part of the work on each process, and fail on all if one fails: none waits for another in vain."""
        error = None
        try:
            with stored_in(self.folder):
                do(*arguments)
        except OSError as failed:
            error = failed
        told = [(error.errno, error.strerror, error.filename)] if error is not None else []
        if self.accelerator.num_processes > 1:
            told = gather_object(told)
        if told:
            number, reason, file = told[0]
            raise OSError(number, f"{reason}, and a checkpoint takes {self._num_bytes() / 2**20:,.0f} MiB", file)

    def _num_bytes(self) -> int:
        """Return the size of the tensors that the checkpoint of this process holds."""
        states = [part.state_dict() for part in (*self.parts.values(), *self.shards.values())]
        return _num_bytes([*map(_trainable, self.networks.values()), *states])

    def _make_room(self, partial: Path, num_kept: int) -> None:
        if self.accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
            self._remove_older(num_kept)  # first, so that the disk never holds more
            partial.mkdir(parents=True)

    def _remove_older(self, num_kept: int) -> None:
        for step in checkpoint_steps(self.folder)[:-num_kept]:
            shutil.rmtree(self._place(step))

    def _content(self) -> dict[str, dict[str, Any]]:
        """Return what this process writes: the state of each file, by its name."""
        content = {f"generators-{self.accelerator.process_index}.pt": _generator_states()}
        if self.shards:
            content[self._shards_file(self.folder).name] = _states(self.shards)
        if self.accelerator.is_main_process:
            content |= {f"{name}.safetensors": _trainable(network) for name, network in self.networks.items()}
            content[STATE] = _states(self.parts)
        return content

    def _write(self, content: dict[str, dict[str, Any]], partial: Path) -> None:
        for name, state in content.items():
            (save_file if name.endswith(".safetensors") else save_state)(state, partial / name)

    def _finish(self, partial: Path, place: Path) -> None:
        if self.accelerator.is_main_process:
            files = sorted(partial.iterdir())
            with ThreadPoolExecutor() as threads:  # a core reads about as slowly as a disk
                digests = dict(zip([file.name for file in files], threads.map(sha256, files), strict=True))
            write_json(partial / DIGESTS, digests)
            flush_files(partial)
            shutil.rmtree(place, ignore_errors=True)  # a damaged one that was passed over
            partial.replace(place)
            flush_files(place)

    def _complete(self, partial: Path, place: Path) -> None:
        self._finish(partial, place)
        self._remove_older(NUM_KEPT)

    def load_last(self) -> None:
        """Take back the newest undamaged state, if there are checkpoints. Damaged ones are named and passed over.

        Raises:
            UserError: if all are damaged, or the state is in other shards than this run's, or holds anything but
                tensors and plain values.
        """
        last = self._newest_undamaged()
        if last is None:
            return
        folder = self._place(last)
        self._check_shards(folder)
        for name, network in self.networks.items():
            loaded = load_file(folder / f"{name}.safetensors")
            with torch.no_grad():
                for key, parameter in _trainable(network).items():
                    parameter.copy_(loaded[key])
        state = read_state(folder / STATE)
        for name, part in self.parts.items():
            if name in state or name not in LATER:
                part.load_state_dict(state[name])
        if self.shards:
            state = read_state(self._shards_file(folder))
            for name, part in self.shards.items():
                part.load_state_dict(state[name])
        generators = folder / f"generators-{self.accelerator.process_index}.pt"
        if generators.is_file():  # absent when the run goes on with more processes: draws are keyed, nothing is lost
            _set_generator_states(read_state(generators))
        self._last = replace(self.progress)

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

    @property
    def _partial(self) -> Path:
        return self.folder / "partial"

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


def _num_bytes(state: Any) -> int:
    if isinstance(state, dict):
        return sum(map(_num_bytes, state.values()))
    if isinstance(state, list | tuple):
        return sum(map(_num_bytes, state))
    return state.nbytes if isinstance(state, torch.Tensor) else 0


def save_state(state: dict[str, Any], file: Path) -> None:
    """Write a state by torch.save."""
    with file.open("wb") as opened:  # by its name, torch would not say why a write fails
        torch.save(state, opened)


def _states(parts: Mapping[str, Stateful]) -> dict[str, Any]:
    return {name: part.state_dict() for name, part in parts.items()}


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
