"""Tensors on the disk by key, in files that several runs may fill at once and that are checked whenever they are read.

All that is computed once and kept lies in such stores: features of prompts, latents of images, scores of training
images, and what scorers make of prompts. A shard is a safetensors file of a few hundred entries. It is named by the
keys that it holds and is written whole or not at all, so that two writers of the same entries leave one file. Entries
of one layout (names, dtypes and shapes) lie in common tensors, `<layout>/<name>` [N, ...], beside their keys and
digests; a reader seeks to its rows and reads no more, so that memory does not grow with what is read.
"""

import hashlib
import json
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignbench.files import replacing

Entry = dict[str, Tensor]

SUFFIX = ".safetensors"
KEY_BYTES = 16
KEY = np.dtype(f"S{KEY_BYTES}")  # sorted and compared as bytes; NumPy leaves out zeros at the end, of all keys alike
DIGEST_BYTES = 32
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def key_of(*parts: str) -> bytes:
    """Return the key of what `parts` name."""
    return hashlib.sha256("\0".join(parts).encode()).digest()[:KEY_BYTES]


def num_bytes(entry: Entry) -> int:
    """Return the size of an entry's tensors."""
    return sum(tensor.nbytes for tensor in entry.values())


class DamagedError(Exception):
    """A shard, or an entry of it, is not as it was written."""


@dataclass(frozen=True)
class _Column:
    """One tensor of a shard.

    Attributes:
        start: where it begins in the file.
        dtype, shape, num_bytes: of one row.
        note: what a digest says of it beside the bytes of a row.
    """

    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    num_bytes: int
    note: bytes


@dataclass(frozen=True)
class _Layout:
    """Entries of a shard whose tensors are of the same names, dtypes and shapes."""

    columns: dict[str, _Column]  # sorted by name
    digests: int  # where they begin in the file


class TensorStore:
    """The shards of one folder.

    Several processes may add at once. What is added, by this process too, is seen after `refresh`. An entry that is
    damaged is never returned: its shard is deleted, and all its entries count as absent, to be made again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.refresh()

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: bytes) -> bool:
        return self._find([key])[0] is not None

    @property
    def num_bytes(self) -> int:
        """Size of all shards on the disk."""
        return sum(file.stat().st_size for file in self._files if file.exists())

    def refresh(self) -> None:
        """Look at the keys of all shards that are there now."""
        self._files: list[Path] = []
        self._layouts: list[list[_Layout]] = []
        keys, places = [np.empty(0, KEY)], [np.empty((0, 3), np.int32)]
        for file in sorted(self.folder.glob(f"*{SUFFIX}")):
            try:
                parts = _open(file)
            except FileNotFoundError:  # another run found it damaged
                continue
            except DamagedError:
                _discard(file)
                continue
            for number, (_, found) in enumerate(parts):
                keys.append(found)
                rows = np.arange(len(found), dtype=np.int32)
                places.append(np.stack([np.full_like(rows, len(self._files)), np.full_like(rows, number), rows], 1))
            self._files.append(file)
            self._layouts.append([layout for layout, _ in parts])
        joined = np.concatenate(keys)
        order = np.argsort(joined)
        self._keys = joined[order]
        self._places = np.concatenate(places)[order]  # shard, layout and row of each key

    def get(self, key: bytes) -> Entry | None:
        """Return the tensors of an entry, on the CPU; None if it is absent, or was until now but is damaged."""
        return self.read([key])[0]

    def read(self, keys: Sequence[bytes]) -> list[Entry | None]:
        """Return what `get` does, of each key. The file of a shard is opened once for all keys in it."""
        wanted: dict[int, list[tuple[int, int, int]]] = {}
        for number, place in enumerate(self._find(keys)):
            if place is not None:
                shard, layout, row = place
                wanted.setdefault(shard, []).append((number, layout, row))
        entries: list[Entry | None] = [None] * len(keys)
        lost = []
        for shard, rows in wanted.items():
            file, layouts = self._files[shard], self._layouts[shard]
            try:
                descriptor = os.open(file, os.O_RDONLY)
                try:
                    found = [_entry(descriptor, keys[number], layouts[layout], row) for number, layout, row in rows]
                finally:
                    os.close(descriptor)
            except FileNotFoundError:  # another run found it damaged
                lost.append(shard)
            except DamagedError:
                _discard(file)
                lost.append(shard)
            else:
                for (number, _, _), entry in zip(rows, found, strict=True):
                    entries[number] = entry
        if lost:
            self._forget(lost)
        return entries

    def add(self, entries: Mapping[bytes, Entry]) -> None:
        """Write entries as one shard."""
        layouts: dict[tuple, list[bytes]] = {}
        for key, entry in entries.items():
            shapes = tuple((name, tensor.dtype, tensor.shape) for name, tensor in sorted(entry.items()))
            layouts.setdefault(shapes, []).append(key)
        tensors: dict[str, Tensor] = {}
        for number, (shapes, keys) in enumerate(layouts.items()):
            digests = b"".join(_digest(key, map(_told, sorted(entries[key].items()))) for key in keys)
            tensors[f"{number}/key"] = _table(b"".join(keys), KEY_BYTES)
            tensors[f"{number}/sha256"] = _table(digests, DIGEST_BYTES)
            for name, _, _ in shapes:
                tensors[f"{number}/{name}"] = torch.stack([entries[key][name] for key in keys]).contiguous()
        from safetensors.torch import save_file

        with _writing(self.folder), replacing(self.shard(entries)) as temporary:
            save_file(tensors, temporary)

    def shard(self, keys: Iterable[bytes]) -> Path:
        """Return the file of the entries that were added together under these keys."""
        return self.folder / f"{hashlib.sha256(b''.join(keys)).hexdigest()[:32]}{SUFFIX}"

    def discard_damaged(self, files: Sequence[Path]) -> None:
        """Read some shards as a whole and delete those that are not as they were written; seen after `refresh`."""
        for file in files:
            try:
                with file.open("rb", buffering=0) as content:
                    for layout, keys in _open(file):
                        for row in range(len(keys)):
                            _entry(content.fileno(), keys[row : row + 1].tobytes(), layout, row)
            except FileNotFoundError:  # another process found it damaged
                continue
            except DamagedError:
                _discard(file)

    @property
    def files(self) -> Sequence[Path]:
        """The shards, by name."""
        return self._files

    def _find(self, keys: Sequence[bytes]) -> list[tuple[int, int, int] | None]:
        """Return shard, layout and row of each key, None for one that is absent."""
        if not len(self._keys):
            return [None] * len(keys)
        sought = np.frombuffer(b"".join(keys), KEY)
        found = np.minimum(np.searchsorted(self._keys, sought), len(self._keys) - 1)
        there = (self._keys[found] == sought).tolist()
        return [
            tuple(place) if known else None for place, known in zip(self._places[found].tolist(), there, strict=True)
        ]

    def _forget(self, shards: Sequence[int]) -> None:
        kept = ~np.isin(self._places[:, 0], shards)
        self._keys, self._places = self._keys[kept], self._places[kept]


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Say that this process writes a shard; if no other one does, what killed writers left half-written is deleted."""
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".writers").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for left in folder.glob(f".*{SUFFIX}.*.tmp"):
                left.unlink(missing_ok=True)
        except BlockingIOError:
            pass  # others write
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


def _discard(file: Path) -> None:
    file.unlink(missing_ok=True)
    warnings.warn(f"{file} is damaged and was deleted; what it held is computed again", RuntimeWarning, stacklevel=3)


def _open(file: Path) -> list[tuple[_Layout, np.ndarray]]:
    """Return the layouts of a shard and the keys of their entries, [N], `KEY`.

    Raises:
        DamagedError: if the file is shorter or longer than its header says, or has no header.
    """
    with file.open("rb") as content:
        size = os.fstat(content.fileno()).st_size
        header_bytes = int.from_bytes(content.read(8), "little")
        text = content.read(header_bytes) if header_bytes < size else b""
        try:
            header = json.loads(text)
            ends = [tensor["data_offsets"][1] for tensor in header.values()]
            if size != 8 + header_bytes + max(ends):
                raise DamagedError
            return list(_layouts(content.fileno(), header, 8 + header_bytes))
        # whatever a damaged header leads to
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError, MemoryError):
            raise DamagedError from None


def _layouts(descriptor: int, header: dict, start: int) -> Iterator[tuple[_Layout, np.ndarray]]:
    numbers = sorted({int(name.split("/")[0]) for name in header})
    for number in numbers:
        tensors = {name.split("/")[1]: value for name, value in header.items() if name.startswith(f"{number}/")}
        keys, digests = tensors.pop("key"), tensors.pop("sha256")
        columns = {}
        for name, value in sorted(tensors.items()):
            dtype, shape = DTYPES[value["dtype"]], tuple(value["shape"][1:])
            size = dtype.itemsize * math.prod(shape)
            columns[name] = _Column(start + value["data_offsets"][0], dtype, shape, size, _note(name, dtype, shape))
        found = _read(descriptor, start + keys["data_offsets"][0], keys["shape"][0] * KEY_BYTES)
        yield _Layout(columns, start + digests["data_offsets"][0]), np.frombuffer(found, KEY)


def _entry(descriptor: int, key: bytes, layout: _Layout, row: int) -> Entry:
    """Return one entry.

    Raises:
        DamagedError: if it has not the digest that was written with it.
    """
    data = {
        name: _read(descriptor, column.start + row * column.num_bytes, column.num_bytes)
        for name, column in layout.columns.items()
    }
    told = ((column.note, data[name]) for name, column in layout.columns.items())
    if _digest(key, told) != _read(descriptor, layout.digests + row * DIGEST_BYTES, DIGEST_BYTES):
        raise DamagedError
    return {
        name: torch.frombuffer(data[name], dtype=column.dtype).view(column.shape)
        for name, column in layout.columns.items()
    }


def _read(descriptor: int, start: int, size: int) -> bytearray:
    if min(start, size) < 0 or start + size > os.fstat(descriptor).st_size:
        raise DamagedError
    data = bytearray(size)
    if os.preadv(descriptor, [data], start) != size:
        raise DamagedError
    return data


def _digest(key: bytes, told: Iterable[tuple[bytes, Any]]) -> bytes:
    """Return the digest of an entry: of its key, and of note and bytes of each tensor."""
    digest = hashlib.sha256(key)
    for note, data in told:
        digest.update(note)
        digest.update(data)
    return digest.digest()


def _told(item: tuple[str, Tensor]) -> tuple[bytes, Any]:
    name, tensor = item
    return _note(name, tensor.dtype, tuple(tensor.shape)), tensor.contiguous().view(torch.uint8).numpy().data


def _note(name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> bytes:
    return f"{name} {dtype} {list(shape)}\n".encode()


def _table(data: bytes, width: int) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).reshape(-1, width)
