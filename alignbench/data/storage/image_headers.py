"""What the headers of images say: read once for each state of the data, and kept in the user's cache."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from alignbench.data.storage.image_store import ImageStore
from alignbench.files import cache_folder, write_bytes
from alignbench.images import FAULTS, Header, ImageError
from alignbench.videos import FAULTS as FAULTS_OF_VIDEOS

VERSION = 2  # raised when the kept values change their meaning, or the decoder refuses other images
MISSING = "missing image"
# A fault stands in place of the size. The first is the smallest number, so that a pair whose images have two faults
# counts under the first.
IN_ORDER = (*FAULTS_OF_VIDEOS, MISSING, *FAULTS)
CODES = {fault: number for number, fault in enumerate(IN_ORDER, -len(IN_ORDER))}
UNKNOWN = 0


def image_headers(store: ImageStore, numbers: np.ndarray) -> np.ndarray:
    """Return what the headers of images say, int32, along a new last axis.

    It is an `alignbench.images.Header`: height and width in pixels, and `converted`. For a faulty image height and
    width are both the code of the fault.
    """
    kept = cache_folder() / "image_sizes" / f"{_key(store)}.npy"
    headers = _read(kept, len(store))
    unknown = np.unique(numbers[headers[numbers, 0] == UNKNOWN])
    for number in tqdm(unknown.tolist(), "read image headers", unit="image", dynamic_ncols=True, disable=None):
        headers[number] = _read_header(store, number)
    if len(unknown):
        _write(kept, headers)
    return headers[numbers]


def _read(path: Path, num_images: int) -> np.ndarray:
    """Return the headers that are known, [N, 3]; none of a file that is damaged."""
    unknown = np.full((num_images, 3), UNKNOWN, np.int32)
    if not path.exists():
        return unknown
    content, size = path.read_bytes(), len(_encoded(unknown))
    array, digest = content[:size], content[size:]
    if len(array) < size or digest not in (hashlib.sha256(array).digest(), b""):  # version 0.1.0 wrote no digest
        return unknown
    return np.frombuffer(array, np.int32, offset=size - unknown.nbytes).reshape(unknown.shape).copy()


def _encoded(headers: np.ndarray) -> bytes:
    """Return the content of a NumPy file."""
    file = io.BytesIO()
    np.save(file, headers)
    return file.getvalue()


def _key(store: ImageStore) -> str:
    """Return a digest of all that `image_headers` depends on: the files, and which numbers have none."""
    known = json.dumps([VERSION, len(store), store.state, list(store.missing.items())])
    return hashlib.sha256(known.encode()).hexdigest()


def _read_header(store: ImageStore, number: int) -> Header:
    image = store.image(number)
    file = image.open()
    if file is None:
        return Header(CODES[MISSING], CODES[MISSING], False)
    with file:
        try:
            return image.header(file)
        except ImageError as error:
            return Header(CODES[error.fault], CODES[error.fault], False)


def _write(path: Path, headers: np.ndarray) -> None:
    content = _encoded(headers)
    write_bytes(path, content + hashlib.sha256(content).digest())  # np.load passes over what follows the array
