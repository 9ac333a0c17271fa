"""Arrays in the user's cache: a NumPy file followed by its digest, so that damage to it is noticed."""

import hashlib
import io
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray

from alignbench.files import write_bytes


def keep_array(path: Path, array: NDArray) -> None:
    """Write an array atomically."""
    content = _encoded(array)
    write_bytes(path, content + hashlib.sha256(content).digest())  # np.load passes over what follows the array


def kept_array(path: Path, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray | None:
    """Return the array that was kept; None where there is none, or the file is damaged."""
    if not path.exists():
        return None
    expected = np.empty(shape, dtype)
    content, size = path.read_bytes(), len(_encoded(expected))
    array, digest = content[:size], content[size:]
    if len(array) < size or digest not in (hashlib.sha256(array).digest(), b""):  # version 0.1.0 wrote no digest
        return None
    return np.frombuffer(array, expected.dtype, offset=size - expected.nbytes).reshape(shape).copy()


def _encoded(array: NDArray) -> bytes:
    """Return the content of a NumPy file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()
