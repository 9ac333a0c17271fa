"""Where the encoded images of a data set lie, and how one of them is read without touching the others."""

import hashlib
import io
from abc import ABC, abstractmethod
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from alignbench.errors import UserError
from alignbench.files import file_digest

DAMAGED = (OSError, UnidentifiedImageError, SyntaxError, ValueError)  # what Pillow raises for broken files
TAIL = 4096  # bytes at the end of a file in which its end mark must lie; some programs write on after it
ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
HASHED_BYTES = 2 * 2**30  # data up to this size are read whole to be told apart
REMEMBERED_BYTES = 16 * 2**20  # the digest of a file above this size is kept in the user's cache
SHA256_DIGITS = 64  # the hub's cache names large files by their sha256, small ones by a shorter digest of git


class ImageStore(ABC):
    """Encoded images with numbers from 0."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of images that the store has numbers for."""

    @abstractmethod
    def open(self, number: int) -> BinaryIO | None:
        """Return an image as a file to read, or None where it is missing."""

    @abstractmethod
    def key(self, number: int) -> str:
        """Return what names an image within the data: its file, or its row and column."""

    @abstractmethod
    def number(self, key: str) -> int | None:
        """Return the number of an image by its key, or None for an unknown one."""

    @abstractmethod
    def files(self) -> dict[str, Path]:
        """Return the files that hold the images, by name, in an order that the numbers follow."""

    @property
    def state(self) -> str:
        """A digest of names, sizes and times of change, which costs next to nothing: the same until a file changes."""
        stats = {name: file.stat() for name, file in self.files().items()}
        return _digest_of({name: f"{stat.st_size} {stat.st_mtime_ns}" for name, stat in stats.items()})

    @property
    def identity(self) -> str:
        """A digest that tells data apart by what is in them, and how: `sha256`, `hub` or `stat` before a colon.

        Files of up to `HASHED_BYTES` together are read: equal ones give equal digests anywhere. Beyond that files of
        the hub's cache are known by the digests that name them there; any others by their sizes and times of change: a
        copy then counts as different, but no change goes unnoticed.
        """
        files = self.files()
        if sum(file.stat().st_size for file in files.values()) <= HASHED_BYTES:
            return f"sha256:{_digest_of({name: _sha256(file) for name, file in files.items()})}"
        blobs = {name: file.resolve() for name, file in files.items()}
        if all(blob.parent.name == "blobs" and len(blob.name) == SHA256_DIGITS for blob in blobs.values()):
            return f"hub:{_digest_of({name: blob.name for name, blob in blobs.items()})}"
        return f"stat:{self.state}"

    def decode(self, number: int) -> np.ndarray:
        """Return the pixels of an image, uint8, [H, W, 3].

        Raises:
            UserError: it is missing or damaged; the number of samples is settled by then, so none is left out.
        """
        file = self.open(number)
        if file is not None:
            with file:
                try:
                    with Image.open(file) as image:
                        return np.array(image.convert("RGB"))
                except DAMAGED:
                    pass
        raise UserError(
            f"the image {self.key(number)} is {'damaged' if file else 'missing'}; add this name as a line to a file "
            "and set data.exclude to it"
        )


def short_side(file: BinaryIO) -> int:
    """Return the short side of an image in pixels, from its header; 0 where that or the end of the image is damaged.

    Nothing is decoded, so damage in the middle is not seen. A file that was cut off is: JPEG and PNG have an end mark.
    """
    try:
        with Image.open(file) as image:
            side, end = min(image.size), ENDS.get(image.format or "", b"")
    except DAMAGED:
        return 0
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - TAIL))
    return side if end in file.read() else 0


def _digest_of(known: dict[str, str]) -> str:
    return hashlib.sha256("".join(f"{name}\0{one}\n" for name, one in known.items()).encode()).hexdigest()


def _sha256(file: Path) -> str:
    if file.stat().st_size > REMEMBERED_BYTES:
        return file_digest(file)
    return hashlib.sha256(file.read_bytes()).hexdigest()


class Files(ImageStore):
    """Images that are files; numbers are given in the order in which paths are first named.

    Args:
        folder: that the paths are relative to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._numbers: dict[str, int] = {}
        self._paths: list[str] = []

    def add(self, path: str) -> int:
        """Return the number of a path, a new one for a path not seen before."""
        number = self._numbers.setdefault(path, len(self._paths))
        if number == len(self._paths):
            self._paths.append(path)
        return number

    def __len__(self) -> int:
        return len(self._paths)

    def open(self, number: int) -> BinaryIO | None:
        path = self.folder / self._paths[number]
        return path.open("rb") if path.is_file() else None

    def key(self, number: int) -> str:
        return self._paths[number]

    def number(self, key: str) -> int | None:
        return self._numbers.get(key)

    def files(self) -> dict[str, Path]:
        places = {path: self.folder / path for path in self._paths}
        return {path: place for path, place in places.items() if place.is_file()}
