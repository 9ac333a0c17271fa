"""Where the encoded images of a data set lie, and how one of them is read without touching the others."""

import hashlib
import io
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps

from alignbench.crop import Size
from alignbench.data.storage.read_blocks import Blocks
from alignbench.errors import UserError
from alignbench.files import file_digest
from alignbench.images import DAMAGE

TAIL = 4096  # bytes at the end of a file in which its end mark must lie; some programs write on after it
ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
SIDEWAYS = range(5, 9)  # values of EXIF's orientation by which width and height change places
HASHED_BYTES = 2 * 2**30  # data up to this size are read whole to be told apart
REMEMBERED_BYTES = 16 * 2**20  # the digest of a file above this size is kept in the user's cache
SHA256_DIGITS = 64  # the hub's cache names large files by their sha256, small ones by a shorter digest of git


@dataclass(frozen=True)
class EncodedImage(ABC):
    """Where one encoded image lies: small enough to travel between processes, and all that reading it takes.

    Attributes:
        key: names the image within its data: its file, or its row and column.
    """

    key: str

    @abstractmethod
    def open(self) -> BinaryIO | None:
        """Return the image as a file to read, or None where it is missing."""

    def decode(self) -> np.ndarray:
        """Return the pixels, uint8, [H, W, 3], turned upright as EXIF says, without any alpha channel.

        Raises:
            UserError: the image is missing or damaged. How many samples there are is settled by then, so none can be
                left out.
        """
        file = self.open()
        if file is not None:
            with file:
                try:
                    with Image.open(file) as image:
                        return np.array(ImageOps.exif_transpose(image).convert("RGB"))
                except DAMAGE:
                    pass
        raise UserError(
            f"the training image {self.key} is {'damaged' if file else 'missing'}; write this name on a line of a text "
            "file and set data.exclude to it"
        )


@dataclass(frozen=True)
class FileImage(EncodedImage):
    """A whole file."""

    path: Path

    def open(self) -> BinaryIO | None:
        return self.path.open("rb") if self.path.is_file() else None


class ImageStore(ABC):
    """Encoded images with numbers from 0."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of images that the store has numbers for."""

    @abstractmethod
    def image(self, number: int) -> EncodedImage:
        """Return where an image lies."""

    @abstractmethod
    def number(self, key: str) -> int | None:
        """Return the number of an image by its key, or None for an unknown one."""

    @abstractmethod
    def files(self) -> dict[str, Path]:
        """Return the files that hold the images, by name, in an order that the numbers follow."""

    def blocks(self, numbers: np.ndarray) -> Blocks | None:
        """Return which images are read together, given their numbers, [N]; None where any order costs the same."""
        del numbers

    @property
    def state(self) -> str:
        """A digest of names, sizes and times of change, which costs next to nothing: the same until a file changes."""
        stats = {name: file.stat() for name, file in self.files().items()}
        return _digest_of({name: f"{stat.st_size} {stat.st_mtime_ns}" for name, stat in stats.items()})

    def address(self, key: str) -> str:
        """Name the pixels of an image among those of all data, given its key; see `DataSource.address`."""
        return f"{self.identity}/{key}"

    @cached_property
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
        self._addresses: dict[str, str] = {}

    def add(self, path: str) -> int:
        """Return the number of a path, a new one for a path not seen before."""
        number = self._numbers.setdefault(path, len(self._paths))
        if number == len(self._paths):
            self._paths.append(path)
        return number

    def __len__(self) -> int:
        return len(self._paths)

    def image(self, number: int) -> EncodedImage:
        return FileImage(self._paths[number], self.folder / self._paths[number])

    def number(self, key: str) -> int | None:
        return self._numbers.get(key)

    def address(self, key: str) -> str:
        """Return the digest of the file where files are read to tell data apart: other data may hold it too."""
        if key not in self._addresses:
            known = self.identity.startswith("sha256:")
            self._addresses[key] = _sha256(self.folder / key) if known else super().address(key)
        return self._addresses[key]

    def files(self) -> dict[str, Path]:
        places = {path: self.folder / path for path in self._paths}
        return {path: place for path, place in places.items() if place.is_file()}


def image_size(file: BinaryIO) -> Size:
    """Return height and width of an image in pixels, upright, from its header; 0 where that or its end is damaged.

    Nothing is decoded, so damage in the middle is not seen. A file that was cut off is: JPEG and PNG have an end mark.
    Nor is a turn that a PNG tells of after its pixels.
    """
    try:
        with Image.open(file) as image:
            turned = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1) in SIDEWAYS  # a PNG's own decodes it
            (width, height), end = image.size, ENDS.get(image.format or "", b"")
    except DAMAGE:
        return 0, 0
    num_bytes = file.seek(0, io.SEEK_END)
    file.seek(max(0, num_bytes - TAIL))
    if end not in file.read():
        return 0, 0
    return (width, height) if turned else (height, width)
