"""Where the encoded images of a data set are stored, and how one of them is read without reading the others."""

import hashlib
import os.path  # whose functions take names that no file can have, unlike those of pathlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np

from alignbench.data.storage.read_blocks import Blocks
from alignbench.errors import UserError
from alignbench.files import file_digest
from alignbench.images import SEVERAL_FRAMES, Header, ImageError, decoded, read_header
from alignbench.videos import FrameSpec, is_film, read_video, read_video_header

HASHED_BYTES = 2 * 2**30  # data up to this size are identified by a hash of all their bytes
REMEMBERED_BYTES = 16 * 2**20  # the digests of files above this size are kept in the user's cache
SHA256_DIGITS = 64  # the cache of huggingface_hub names large files by sha256, small ones by a shorter digest


class UnusableImageError(UserError):
    """A training image that cannot be decoded.

    Attributes:
        key: its key.
        fault: what is wrong with it.
    """

    def __init__(self, key: str, fault: str) -> None:
        super().__init__(
            f"the training image {key} {fault}; to leave it out, write this name on a line of a text file, and "
            "set data.exclude to the path of that file; the same command with stages=[prepare] finds all such images "
            "at once"
        )
        self.key, self.fault = key, fault

    def __reduce__(self) -> tuple[type["UnusableImageError"], tuple[str, str]]:
        return type(self), (self.key, self.fault)


@dataclass(frozen=True)
class EncodedImage(ABC):
    """One encoded image and how to read it. It is small, so that it can be sent to other processes.

    Attributes:
        key: name of the image within its data set: its file, or its row and column.
    """

    key: str

    @abstractmethod
    def open(self) -> BinaryIO | None:
        """Return the image as an open file, or None if it is missing."""

    @property
    def location(self) -> str:
        """Where messages say that the image is."""
        return self.key

    def header(self, file: BinaryIO) -> Header:
        """Return what is known of the image before it is trained on.

        Raises:
            ImageError: it is refused.
        """
        return read_header(file)

    def pixels(self, file: BinaryIO) -> np.ndarray:
        """Return the pixels, uint8, [H, W, 3], as `alignbench.images` decodes them; of a video [T, H, W, 3].

        Raises:
            ImageError: it is refused.
        """
        return np.array(decoded(file.read()))

    def decode(self) -> np.ndarray:
        """Return `pixels` of the file.

        Raises:
            UnusableImageError: the image is missing or refused. The number of samples is fixed by then, so the image
                cannot be left out.
        """
        file = self.open()
        if file is None:
            raise UnusableImageError(self.key, "is missing")
        with file:
            try:
                return self.pixels(file)
            except ImageError as error:
                raise UnusableImageError(self.key, str(error)) from None


@dataclass(frozen=True)
class FileImage(EncodedImage):
    """A whole file."""

    path: Path

    @property
    def location(self) -> str:
        return str(self.path)

    def open(self) -> BinaryIO | None:
        return self.path.open("rb") if os.path.isfile(self.path) else None

    def header(self, file: BinaryIO) -> Header:
        self._refuse_film()
        return super().header(file)

    def pixels(self, file: BinaryIO) -> np.ndarray:
        self._refuse_film()
        return super().pixels(file)

    def _refuse_film(self) -> None:
        if is_film(self.path.name):
            raise ImageError("is a film, and the model is trained on pictures", SEVERAL_FRAMES)


@dataclass(frozen=True)
class VideoFile(FileImage):
    """A whole file that holds a video, of which some frames are read."""

    frames: FrameSpec

    def header(self, file: BinaryIO) -> Header:
        return read_video_header(file, self.path.name, self.frames)

    def pixels(self, file: BinaryIO) -> np.ndarray:
        return read_video(file, self.path.name, self.frames)


class ImageStore(ABC):
    """Encoded images, numbered from 0."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abstractmethod
    def image(self, number: int) -> EncodedImage:
        """Return an image by its number."""

    @abstractmethod
    def number(self, key: str) -> int | None:
        """Return the number of an image by its key, or None if the key is unknown."""

    @abstractmethod
    def files(self) -> dict[str, Path]:
        """Return the files that hold the images, by name, in the order of the image numbers."""

    @property
    def missing(self) -> dict[int, str]:
        """The keys of images whose files do not exist, by number. `state` and `identity` do not cover them."""
        return {}

    def blocks(self, numbers: np.ndarray) -> Blocks | None:
        """Return which images are read together, given their numbers, [N]; None if every order costs the same."""
        del numbers

    @property
    def state(self) -> str:
        """A digest of names, sizes and modification times. It is cheap, and it changes when a file changes."""
        stats = {name: file.stat() for name, file in self.files().items()}
        return _digest_of({name: f"{stat.st_size} {stat.st_mtime_ns}" for name, stat in stats.items()})

    def address(self, key: str) -> str:
        """Return a name for an image, given its key, that is unique over all data; see `DataSource.address`."""
        return f"{self.identity}/{key}"

    @cached_property
    def identity(self) -> str:
        """A digest that identifies the data. It begins with `sha256`, `hub` or `stat`, and a colon.

        sha256: the files have at most `HASHED_BYTES` together and are hashed; equal files have equal digests anywhere.
        hub: larger files in the cache of huggingface_hub; their names there are digests of their content. stat: other
        larger files; the digest is that of sizes and modification times, so every change counts, but so does a copy.
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
    """Images that are files; they are numbered in the order in which their paths are first added.

    Args:
        folder: paths are relative to it.
        frames: what is read of each file where they are videos; None for pictures.
    """

    def __init__(self, folder: Path, frames: FrameSpec | None = None) -> None:
        self.folder = folder
        self.frames = frames
        self._of_frames = "" if frames is None else f"-{frames.name}"  # of names of what was read or made of files
        self._numbers: dict[str, int] = {}
        self._paths: list[str] = []
        self._addresses: dict[str, str] = {}

    def add(self, path: str) -> int:
        """Return the number of a path; a new path gets the next number."""
        number = self._numbers.setdefault(path, len(self._paths))
        if number == len(self._paths):
            self._paths.append(path)
        return number

    def __len__(self) -> int:
        return len(self._paths)

    def image(self, number: int) -> EncodedImage:
        key = self._paths[number]
        if self.frames is None:
            return FileImage(key, self.folder / key)
        return VideoFile(key, self.folder / key, self.frames)

    def number(self, key: str) -> int | None:
        return self._numbers.get(key)

    def address(self, key: str) -> str:
        """Return the digest of the file if `identity` hashes files, because other data may hold the same file."""
        if key not in self._addresses:
            known = self.identity.startswith("sha256:") and os.path.isfile(self.folder / key)
            self._addresses[key] = _sha256(self.folder / key) if known else super().address(key)
        return self._addresses[key] + self._of_frames

    @property
    def state(self) -> str:
        return super().state + self._of_frames

    @cached_property
    def identity(self) -> str:
        return super().identity + self._of_frames

    def files(self) -> dict[str, Path]:
        files = {path: self.folder / path for path in self._paths}
        return {path: file for path, file in files.items() if os.path.isfile(file)}

    @property
    def missing(self) -> dict[int, str]:
        return {number: path for number, path in enumerate(self._paths) if not os.path.isfile(self.folder / path)}
