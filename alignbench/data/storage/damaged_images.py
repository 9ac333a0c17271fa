"""Images that turned out to be unusable when they were decoded: kept in the user's cache for each state of the data.

Headers do not tell all damage, and need not have been read. Whoever decodes every image once notes those that it could
not, and rows with one of them are left out from then on, as those are whose header is damaged.
"""

from collections.abc import Iterable
from pathlib import Path

from alignbench.data.storage.image_store import ImageStore
from alignbench.files import cache_folder, locked, write_text


def damaged_images(store: ImageStore) -> list[str]:
    """Return the keys of the images of a store that could not be decoded in its present state."""
    file = _file(store)
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


def note_damaged(store: ImageStore, keys: Iterable[str]) -> None:
    """Add images that could not be decoded to those that are known."""
    file = _file(store)
    with locked(file.with_suffix(".lock")):
        known = dict.fromkeys([*damaged_images(store), *keys])
        write_text(file, "".join(f"{key}\n" for key in known))


def _file(store: ImageStore) -> Path:
    return cache_folder() / "damaged_images" / f"{store.state}.txt"
