"""Writing a state while training changes it: a copy in main memory, and a thread of each process that writes it."""

import io
import pickle
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any

import torch
from torch import Tensor

BLOCK_BYTES = 2**28  # a power of two, to which memory that a GPU copies to is rounded up
ALIGNMENT = 64  # bytes
POLL_SECONDS = 0.1  # between two checks whether the other processes have written
PATIENCE_SECONDS = 20.0  # in which nothing new comes from other processes, after which they are taken to be gone


class MainMemory:
    """Main memory that states are copied to. It is taken once, since taking it is slower than copying, and kept.

    Args:
        pinned: whether it is pinned, as copies from a GPU should have it.
    """

    def __init__(self, pinned: bool) -> None:
        self.pinned = pinned
        self._blocks: list[Tensor] = []

    @property
    def num_bytes(self) -> int:
        """How much was taken."""
        return sum(block.nbytes for block in self._blocks)

    def copy(self, state: Any) -> Any:
        """Return a copy of a state; the copy before it is overwritten.

        Where tensors share memory, or two places hold the same object, the copy has this, too: it is saved as the state
        would be, in files of the same size.

        Args:
            state: tensors and plain values in dicts, lists and tuples.
        """
        pickled = io.BytesIO()
        pickler = _Pickler(pickled)
        pickler.dump(state)
        storages = {one.untyped_storage()._cdata: one.untyped_storage() for one in pickler.tensors}
        by_size = sorted(storages, key=lambda key: storages[key].nbytes(), reverse=True)  # large ones first fit best
        places = dict(zip(by_size, self._take([storages[key].nbytes() for key in by_size]), strict=True))
        for key, place in places.items():
            place.copy_(storages[key], non_blocking=True)
        if self.pinned:
            torch.cuda.synchronize()
        copies = []
        for one in pickler.tensors:
            place = places[one.untyped_storage()._cdata]
            copied = torch.empty(0, dtype=one.dtype).set_(place, one.storage_offset(), one.size(), one.stride())
            copies.append(copied.requires_grad_(one.requires_grad))
        pickled.seek(0)
        return _Unpickler(pickled, copies).load()

    def _take(self, sizes: Sequence[int]) -> list[torch.UntypedStorage]:
        """Return memory of these sizes in bytes, each in the first block that has room."""
        used = [0] * len(self._blocks)
        taken = []
        for size in sizes:
            if size == 0:
                taken.append(torch.UntypedStorage(0))
                continue
            number = next((n for n, block in enumerate(self._blocks) if used[n] + size <= block.nbytes), len(used))
            if number == len(used):
                num_bytes = max(size, BLOCK_BYTES)
                self._blocks.append(torch.empty(num_bytes, dtype=torch.uint8, pin_memory=self.pinned))
                used.append(0)
            # a storage of its own: a view would be saved with the whole block
            buffer = self._blocks[number].numpy()
            part = torch.frombuffer(buffer, dtype=torch.uint8, count=size, offset=used[number])
            taken.append(part.untyped_storage())
            used[number] += -(-size // ALIGNMENT) * ALIGNMENT
        return taken


class _Pickler(pickle.Pickler):
    """Leaves tensors out and numbers them."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.tensors: list[Tensor] = []
        self._numbers: dict[int, int] = {}

    def persistent_id(self, obj: Any) -> int | None:
        if type(obj) is not Tensor:  # a parameter is pickled as the tensor that it wraps
            return None
        if id(obj) not in self._numbers:
            self._numbers[id(obj)] = len(self.tensors)
            self.tensors.append(obj)
        return self._numbers[id(obj)]


class _Unpickler(pickle.Unpickler):
    """Puts tensors where `_Pickler` left them out."""

    def __init__(self, file: io.BytesIO, tensors: Sequence[Tensor]) -> None:
        super().__init__(file)
        self.tensors = tensors

    def persistent_load(self, pid: int) -> Tensor:
        return self.tensors[pid]


class BackgroundWrite:
    """Writes to a folder in a thread of each process, and completes it in the main process when all have written.

    Threads of different processes tell each other by files alone: a collective would meet those of training.

    Args:
        folder: where all processes write.
        process_index, num_processes: of this process, and how many write. 0 is the main process.
        write: writes what this process has to write.
        complete: does what is left when all have written; called in the main process alone.

    Attributes:
        written: of this process: its `result()` returns when `write` has, or raises what that raised.
        completed: of the whole, in the same way. In other processes, and where nothing was to complete, None at once.
    """

    def __init__(
        self,
        folder: Path,
        process_index: int,
        num_processes: int,
        write: Callable[[], None],
        complete: Callable[[], None],
    ) -> None:
        self.folder = folder
        self.is_main = process_index == 0
        self._own_mark = None if self.is_main else folder / f"written-{process_index}"
        self._marks = [folder / f"written-{other}" for other in range(1, num_processes)] if self.is_main else []
        self._all_wrote, self._given_up = Event(), Event()
        threads = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self.written = threads.submit(self._write, write)
        self.completed = threads.submit(self._complete, complete)
        threads.shutdown(wait=False)

    def all_wrote(self) -> None:
        """Tell the thread that all processes have written, as they have told each other."""
        self._all_wrote.set()

    def give_up(self) -> None:
        """End waiting for others, and return when the threads have ended. What was not completed stays so."""
        self._given_up.set()
        wait([self.written, self.completed])

    def end_alone(self) -> None:
        """Wait for the end, but not for processes that are gone: for none that has written nothing for a while."""
        wait([self.written])
        seen, since = None, time.monotonic()
        while not wait([self.completed], timeout=POLL_SECONDS).done and time.monotonic() - since < PATIENCE_SECONDS:
            now = _sizes(self.folder)
            if now != seen:
                seen, since = now, time.monotonic()
        self.give_up()

    def _write(self, write: Callable[[], None]) -> None:
        write()
        if self._own_mark is not None:
            self._own_mark.touch()

    def _complete(self, complete: Callable[[], None]) -> None:
        if not self.is_main or self.written.exception() is not None:
            return
        while not (self._all_wrote.is_set() or all(mark.exists() for mark in self._marks)):
            if self._given_up.wait(POLL_SECONDS):
                return
        for mark in self._marks:
            mark.unlink(missing_ok=True)
        complete()


def _sizes(folder: Path) -> dict[str, int]:
    """Return the size of each file in a folder that other processes change."""
    sizes = {}
    for file in folder.glob("*"):
        with suppress(FileNotFoundError):
            sizes[file.name] = file.stat().st_size
    return sizes
