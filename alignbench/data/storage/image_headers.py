"""Which images are complete, and how large they are: read from their headers, once for each state of the data."""

from pathlib import Path

import numpy as np
from tqdm import tqdm

from alignbench.crop import Size
from alignbench.data.storage.image_store import ImageStore, image_size
from alignbench.files import cache_folder, replacing

MISSING = -1
UNKNOWN = -2


def short_sides(store: ImageStore, numbers: np.ndarray) -> np.ndarray:
    """Return the short sides of images in pixels, in the shape of `numbers`; values below 1 as in `image_sizes`."""
    return image_sizes(store, numbers).min(-1)


def image_sizes(store: ImageStore, numbers: np.ndarray) -> np.ndarray:
    """Return height and width of images in pixels, int32, along a new last axis.

    Both are 0 for damaged images and `MISSING` for missing ones. The sizes are kept in the user's cache for later runs
    on the same data.
    """
    kept = cache_folder() / "image_sizes" / f"{store.state}.npy"
    sizes = np.load(kept) if kept.exists() else np.full((len(store), 2), UNKNOWN, np.int32)
    unknown = np.unique(numbers[sizes[numbers, 0] == UNKNOWN])
    for number in tqdm(unknown.tolist(), "read image headers", unit="image", dynamic_ncols=True, disable=None):
        sizes[number] = _read_size(store, number)
    if len(unknown):
        _write(kept, sizes)
    return sizes[numbers]


def _read_size(store: ImageStore, number: int) -> Size:
    file = store.image(number).open()
    if file is None:
        return MISSING, MISSING
    with file:
        return image_size(file)


def _write(path: Path, sizes: np.ndarray) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, sizes)
