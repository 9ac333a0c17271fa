"""The files of a checkpoint on the disk: whether they are as they were written, and reading them without running code.

A checkpoint is a folder `step-N`. It holds the trained parameters of each network as `<name>.safetensors`, all further
states in `state.pt`, and the sha256 of every file.
"""

import os.path
from pathlib import Path
from typing import Any

import numpy
from numpy._core.multiarray import _reconstruct  # pyright: ignore[reportAttributeAccessIssue]

from alignbench.errors import UserError
from alignbench.files import sha256
from alignbench.models.weights.state_dicts import load_pickled, pickle_errors
from alignbench.reading import read_json_object
from alignbench.store.run_folder import STEP

DIGESTS = "digests.json"  # the sha256 of each other file of a checkpoint, by its name
STATE = "state.pt"
# What generator states of version 0.1.0 hold beside plain values; all of it only describes an array of numbers.
ARRAY_PARTS = [
    numpy.ndarray,
    numpy.dtype,
    type(numpy.dtype(numpy.uint32)),
    (_reconstruct, "numpy._core.multiarray._reconstruct"),
    (_reconstruct, "numpy.core.multiarray._reconstruct"),
]


def checkpoint_steps(folder: Path) -> list[int]:
    """Return the steps of the checkpoints in a folder, the newest last."""
    return sorted(int(path.name[5:]) for path in folder.glob("step-*") if STEP.fullmatch(path.name))


def damaged_file(folder: Path, *names: str) -> Path | None:
    """Return a file of a checkpoint that is not as it was written; None where all are, or no digests were written.

    Args:
        names: the files to look at; all of them by default.
    """
    note = folder / DIGESTS
    if not note.exists():  # a checkpoint of version 0.1.0
        return None
    try:
        digests = read_json_object(note)
    except UserError:
        return note
    files = (folder / name for name in names or digests)
    return next((file for file in files if not os.path.isfile(file) or sha256(file) != digests.get(file.name)), None)


def read_state(file: Path, mmap: bool = False) -> Any:
    """Return what torch.save wrote: tensors and plain values. Nothing in the file is executed.

    Args:
        mmap: leave the tensors on the disk until they are used; the file must stay there as long.

    Raises:
        UserError: if it holds anything else.
    """
    import torch

    remedy = f"delete {file.parent} to go on without it"
    foreign = f"holds more than tensors and numbers, which could run code, and is not read; {remedy}"
    with pickle_errors(file, foreign, remedy), torch.serialization.safe_globals(ARRAY_PARTS):
        return load_pickled(file, mmap)
