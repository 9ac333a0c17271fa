"""What the headers of images say, looked up once for each state of the data: whether they are whole, and how large."""

from pathlib import Path

import numpy as np
from tqdm import tqdm

from alignbench.crop import Size
from alignbench.data.storage.image_store import ImageStore, image_size
from alignbench.files import cache_folder, replacing

MISSING = -1
UNKNOWN = -2


def short_sides(store: ImageStore, numbers: np.ndarray) -> np.ndarray:
    """Return the short side of images in pixels, as `image_sizes` does; of the shape of `numbers`."""
    return image_sizes(store, numbers).min(-1)


def image_sizes(store: ImageStore, numbers: np.ndarray) -> np.ndarray:
    """Return height and width of images in pixels, int32, along a new last axis.

    Both are 0 for damaged and `MISSING` for missing images. What was looked up is kept in the user's cache, so that a
    later run of the same data finds it.
    """
    note = cache_folder() / "image_sizes" / f"{store.state}.npy"
    sizes = np.load(note) if note.exists() else np.full((len(store), 2), UNKNOWN, np.int32)
    unknown = np.unique(numbers[sizes[numbers, 0] == UNKNOWN])
    for number in tqdm(unknown.tolist(), "look at training images", unit="image", dynamic_ncols=True, disable=None):
        sizes[number] = _look(store, number)
    if len(unknown):
        _keep(note, sizes)
    return sizes[numbers]


def _look(store: ImageStore, number: int) -> Size:
    file = store.image(number).open()
    if file is None:
        return MISSING, MISSING
    with file:
        return image_size(file)


def _keep(note: Path, sizes: np.ndarray) -> None:
    with replacing(note) as temporary, temporary.open("wb") as file:
        np.save(file, sizes)
