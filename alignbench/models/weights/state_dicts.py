"""Files of named tensors: what is in them without reading it all, their tensors, and whether these fit a network."""

import json
import pickle
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alignbench.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

PICKLED = (".bin", ".pt", ".pth", ".ckpt")  # what torch.save writes
TENSOR_FILES = (".safetensors", *PICKLED)
SHARD_INDEX = ".index.json"


def safetensors_header(path: Path) -> dict[str, dict]:
    """Return what a safetensors file says of its tensors, by key; its own notes are under `__metadata__`.

    Raises:
        UserError: if the file is cut or of another format.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        text = file.read(size) if size < path.stat().st_size else b""
    try:
        return json.loads(text)
    except ValueError:
        raise UserError(f"{path} is no whole safetensors file; fetch it again") from None


def sort_notes(path: Path) -> None:
    """Put the notes of a safetensors file into the order of their names.

    The library writes them in an order that differs from call to call, and so do the bytes of equal files.
    """
    header = safetensors_header(path)
    notes = dict(sorted(header.pop("__metadata__").items()))
    text = json.dumps({"__metadata__": notes, **header}, separators=(",", ":"), ensure_ascii=False).encode()
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        file.write(text.ljust(size))  # spaces may follow a header


def read_state_dict(path: Path) -> dict[str, "Tensor"]:
    """Return the tensors of a checkpoint, on the CPU and mapped from the disk where its format allows.

    Reads safetensors and what torch.save writes, without running code from the file; training checkpoints hold the
    tensors in their entry `state_dict`.

    Raises:
        UserError: if a file of torch.save holds something other than tensors, such as a whole network with its code.
    """
    import torch
    from safetensors.torch import load_file

    if path.suffix == ".safetensors":
        return load_file(path)
    # files of torch before 1.6 are no archives and cannot be mapped
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError:
        raise UserError(f"{path} holds more than tensors, which could run code; save its state_dict alone") from None
    return dict(content.get("state_dict", content))


def check_pickles(files: Iterable[Path]) -> None:
    """Refuse files of torch.save with something other than tensors, before another library fails on them.

    Raises:
        UserError: as `read_state_dict` does.
    """
    for file in files:
        if file.suffix in PICKLED:
            read_state_dict(file)  # mapped, so little is read


def misfits(expected: Mapping[str, Sequence[int]], found: Mapping[str, Sequence[int]]) -> str:
    """Name the tensors that are missing, left over or of another shape; empty where all fit.

    Args:
        expected, found: shapes by key.
    """
    wrong = [
        f"{key} is {tuple(found[key])} instead of {tuple(expected[key])}"
        for key in found.keys() & expected.keys()
        if tuple(found[key]) != tuple(expected[key])
    ]
    faults = [
        listed("missing", expected.keys() - found.keys()),
        listed("left over", found.keys() - expected.keys()),
        listed("of another shape", wrong),
    ]
    return "; ".join(fault for fault in faults if fault)


def shapes(state_dict: Mapping[str, "Tensor"]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor."""
    return {key: tuple(tensor.shape) for key, tensor in state_dict.items()}


def listed(label: str, entries: Iterable[str]) -> str:
    """Return the label with the first few entries in order; nothing if there are none."""
    entries = sorted(entries)
    rest = f" and {len(entries) - 3} more" if len(entries) > 3 else ""
    return f"{label}: {', '.join(entries[:3])}{rest}" if entries else ""
