"""Files of named tensors: what is in them without reading it all, their tensors, and whether these fit a network."""

import json
import pickle
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench.errors import UserError
from alignbench.reading import parse_json, read_json_object

if TYPE_CHECKING:
    from torch import Tensor

PICKLED = (".bin", ".pt", ".pth", ".ckpt")  # what torch.save writes
TENSOR_FILES = (".safetensors", *PICKLED)
SHARD_INDEX = ".index.json"
LFS = b"version https://git-lfs"  # how a pointer begins that stands for a file until `git lfs pull`
# as torch tells that an archive or a pickle is damaged
DAMAGED = (OSError, RuntimeError, EOFError, ValueError, TypeError, LookupError, AttributeError, OverflowError)
ARCHIVE, PICKLE = b"PK\x03\x04", b"\x80"  # how files of torch.save begin, since version 1.6 and before


def safetensors_header(path: Path) -> dict[str, dict]:
    """Return what a safetensors file says of its tensors, by key; its own notes are under `__metadata__`.

    Raises:
        UserError: if the file is cut or of another format.
    """
    num_bytes = path.stat().st_size
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        text = file.read(size) if size < num_bytes else b""
    try:
        header = parse_json(text, str(path))
        tensors = [tensor for key, tensor in header.items() if key != "__metadata__"]
        expected = 8 + size + max((tensor["data_offsets"][1] for tensor in tensors), default=0)
    except (ValueError, AttributeError, KeyError, TypeError, IndexError):  # whatever a damaged header leads to
        raise UserError(f"{path} is no whole safetensors file; fetch it again") from None
    if num_bytes < expected:
        raise UserError(f"{path} is cut, at {num_bytes:,} of {expected:,} bytes; fetch it again")
    return header


def listed_shards(index: Path) -> list[str]:
    """Return the names of the files that an index of weights lists, sorted.

    Raises:
        UserError: if it is damaged.
    """
    names = read_json_object(index, "fetch it again").get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(one, str) and Path(one).name == one for one in names.values()):
        raise UserError(f"{index} is no index of weights; fetch it again")
    return sorted(set(names.values()))


def load_tensors(path: Path) -> dict[str, "Tensor"]:
    """Return the tensors of a safetensors file, on the CPU and mapped from the disk.

    Raises:
        UserError: if it is cut or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    safetensors_header(path)
    try:
        return load_file(path)
    except (SafetensorError, ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({str(error).splitlines()[0]:.100}); fetch it again") from None


def check_whole(path: Path) -> None:
    """Refuse a file that is empty or cut, or that is no file of weights although its name says so; little is read.

    Args:
        path: of any name; what it holds is looked at where the name is that of a file of tensors.

    Raises:
        UserError: naming the file and what is wrong with it.
    """
    with path.open("rb") as file:
        begin = file.read(len(LFS))
    if not begin:
        raise UserError(f"{path} is empty; fetch it again")
    if begin == LFS:
        raise UserError(
            f"{path} is a pointer of Git LFS and not the file itself; run `git lfs pull`, or fetch the file"
        )
    if path.suffix == ".safetensors":
        safetensors_header(path)
    if path.suffix not in PICKLED:
        return
    if begin.startswith(ARCHIVE):
        if not is_archive(path):
            raise UserError(f"{path} is cut, at {path.stat().st_size:,} bytes; fetch it again")
    elif not begin.startswith(PICKLE):
        raise UserError(f"{path} is no file of weights: it begins with {begin[:12]!r}; fetch it again")


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
        UserError: if the file is cut or damaged, or one of torch.save holds something other than named tensors, such as
            a whole network with its code.
    """
    check_whole(path)
    if path.suffix == ".safetensors":
        return load_tensors(path)
    with pickle_errors(path, "holds more than tensors, which could run code; save its state_dict alone"):
        content = load_pickled(path)
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__} and no tensors by name; save a state_dict")
    return dict(content.get("state_dict", content))


def load_pickled(path: Path, mmap: bool = True) -> Any:
    """Return what torch.save wrote, on the CPU. Only tensors and plain values are read, and nothing is run.

    Args:
        mmap: leave tensors on the disk until they are used, where the format allows it: files of torch before 1.6 are
            no archives and cannot be mapped.
    """
    import torch

    return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and is_archive(path))


@contextmanager
def pickle_errors(path: Path, foreign: str, remedy: str = "fetch it again") -> Iterator[None]:
    """Raise what torch raises of files that it cannot read as the sentence about it.

    Args:
        foreign: what is said of a file that holds more than tensors and plain values.
        remedy: what is to be done with a damaged one.
    """
    try:
        yield
    except UserError:
        raise
    except pickle.UnpicklingError:
        raise UserError(f"{path} {foreign}") from None
    except DAMAGED as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is damaged ({reason:.100}); {remedy}") from None


def is_archive(path: Path) -> bool:
    """Say whether a file is a ZIP archive with its list of contents, which lies at the end."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return False


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
