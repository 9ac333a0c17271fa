"""What the headers of images say: read once for each state of the data, and kept in the user's cache."""

import hashlib
import json

import numpy as np
from tqdm.auto import tqdm

from alignbench.data.storage.image_store import ImageStore
from alignbench.data.storage.kept_array import keep_array, kept_array
from alignbench.files import cache_folder
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
    shape = (len(store), 3)
    headers = kept_array(kept, shape, np.int32)
    if headers is None:
        headers = np.full(shape, UNKNOWN, np.int32)
    unknown = np.unique(numbers[headers[numbers, 0] == UNKNOWN])
    for number in tqdm(unknown.tolist(), "read image headers", unit="image", dynamic_ncols=True, disable=None):
        headers[number] = _read_header(store, number)
    if len(unknown):
        keep_array(kept, headers)
    return headers[numbers]


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
