"""What the headers of images say, looked up once for each state of the data: whether they are whole, and how large."""

from pathlib import Path

import numpy as np
from tqdm import tqdm

from alignbench.data.stores import ImageStore, short_side
from alignbench.files import cache_folder, replacing

MISSING = -1
UNKNOWN = -2


def short_sides(store: ImageStore, numbers: np.ndarray) -> np.ndarray:
    """Return the short side of images in pixels, 0 for damaged and `MISSING` for missing ones; of their shape, int32.

    What was looked up is kept in the user's cache, so that a later run of the same data finds it.
    """
    note = cache_folder() / "image_sides" / f"{store.state}.npy"
    sides = np.load(note) if note.exists() else np.full(len(store), UNKNOWN, np.int32)
    unknown = np.unique(numbers[sides[numbers] == UNKNOWN])
    for number in tqdm(unknown.tolist(), "check training images", unit="image", dynamic_ncols=True, disable=None):
        sides[number] = _look(store, number)
    if len(unknown):
        _keep(note, sides)
    return sides[numbers]


def _look(store: ImageStore, number: int) -> int:
    file = store.image(number).open()
    if file is None:
        return MISSING
    with file:
        return short_side(file)


def _keep(note: Path, sides: np.ndarray) -> None:
    with replacing(note) as temporary, temporary.open("wb") as file:
        np.save(file, sides)
