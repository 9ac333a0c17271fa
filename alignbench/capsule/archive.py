"""The bytes of a capsule: a tar file with one possible form, so that a reader finds every bit that has changed.

Members are plain files without compression, in ustar headers that say nothing but name and size: time 0, owner 0,
permissions 644. So the same members give the same bytes, and no member can be larger than the file. A reader compares
each header, the filling behind each member and the end of the file with what a writer would write.
"""

import hashlib
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from alignbench.errors import UserError
from alignbench.text import printable

BLOCK = tarfile.BLOCKSIZE
RECORD = tarfile.RECORDSIZE  # the size of a tar file is a multiple of it
CHUNK = 2**20
MAX_MEMBERS = 2_000_000
MAX_NAMES = 2**28  # bytes of all names together
ASK_AGAIN = "ask for the capsule again"
KINDS = {
    tarfile.SYMTYPE: "a link",
    tarfile.LNKTYPE: "a link",
    tarfile.DIRTYPE: "a folder",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
}


@dataclass(frozen=True)
class Member:
    """A file in a capsule.

    Attributes:
        start: where its content begins.
        size: of its content, in bytes.
    """

    name: str
    start: int
    size: int


class ArchiveWriter:
    """Writes members one after another.

    Args:
        file: that is written, from its beginning.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._size = file, 0

    def add(self, name: str, content: bytes) -> str:
        """Add a member; return its sha256.

        Raises:
            UserError: the name is longer than a tar file can have.
        """
        self._put(_header(name, len(content)) + content)
        self._put(bytes(-self._size % BLOCK))
        return hashlib.sha256(content).hexdigest()

    def add_file(self, name: str, path: Path) -> str:
        """Add a file of any size; return its sha256.

        Raises:
            UserError: it changed its size meanwhile, or its name is longer than a tar file can have.
        """
        digest, size = hashlib.sha256(), path.stat().st_size
        self._put(_header(name, size))
        begins = self._size
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
                self._put(chunk)
        if self._size - begins != size:
            raise UserError(f"{path} changed while it was packed; pack again when no command writes it")
        self._put(bytes(-self._size % BLOCK))
        return digest.hexdigest()

    def close(self) -> None:
        """Write the end."""
        self._put(bytes(_end(self._size) - self._size))

    def _put(self, content: bytes) -> None:
        self._file.write(content)
        self._size += len(content)


def _header(name: str, size: int) -> bytes:
    """Return the only header that a member of this name and size can have.

    Raises:
        UserError: the name is longer than a header can hold.
    """
    info = tarfile.TarInfo(name)
    info.size = size
    try:
        return info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict")
    except ValueError:
        raise UserError(f"{name} has too long a name or too many bytes ({size:,}) for a capsule; shorten it") from None


def _end(size: int) -> int:
    """Return the size of a whole file, given where its last member ends: at least two empty blocks follow."""
    return -(-(size + 2 * BLOCK) // RECORD) * RECORD


def read_members(path: Path) -> dict[str, Member]:
    """Return all members of a capsule by their names; their contents are not read.

    Raises:
        UserError: it is not as a writer writes it. The sentence names the member.
    """
    try:
        with path.open("rb") as file:
            found: dict[str, Member] = {}
            for member in _members(file, path):
                if member.name in found:
                    raise UserError(f"{path} holds {member.name} twice; {ASK_AGAIN}")
                found[member.name] = member
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give the file of a capsule") from None
    if not found:
        raise UserError(f"{path} is empty; {ASK_AGAIN}")
    return found


def _members(file: BinaryIO, path: Path) -> Iterator[Member]:
    whole, position, last, names = os.fstat(file.fileno()).st_size, 0, "its beginning", 0
    for _ in range(MAX_MEMBERS):
        block = file.read(BLOCK)
        if block == bytes(BLOCK):
            _check_end(file, path, position, whole, last)
            return
        name, size = _read_header(block, path, last)
        names += len(name)
        start = position + BLOCK
        position = start + -(-size // BLOCK) * BLOCK
        if position > whole or names > MAX_NAMES:
            raise UserError(f"{path} is cut in {name}; {ASK_AGAIN}")
        file.seek(start + size)
        if any(file.read(position - start - size)):
            raise UserError(f"{path} is damaged behind {name}; {ASK_AGAIN}")
        yield Member(name, start, size)
        last = name
    raise UserError(f"{path} holds more than {MAX_MEMBERS:,} files; give a capsule of fewer runs")


def _read_header(block: bytes, path: Path, last: str) -> tuple[str, int]:
    """Return name and size of a member, if its header is as a writer writes it.

    Args:
        last: the member before it, which is named if the header tells no name.
    """
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError, ValueError):
        raise UserError(f"{path} is no capsule, or is damaged behind {last}; {ASK_AGAIN}") from None
    name = printable(info.name)
    if info.type in KINDS:
        raise UserError(f"{path} holds {KINDS[info.type]}, {name}, and a capsule holds files alone; do not use it")
    if name != info.name or info.size < 0 or block != _header(info.name, info.size):
        raise UserError(f"{path} has another header for {name} than a capsule has; {ASK_AGAIN}")
    return info.name, info.size


def _check_end(file: BinaryIO, path: Path, position: int, whole: int, last: str) -> None:
    """Refuse a file that does not end as it must behind its last member."""
    if whole != _end(position):
        raise UserError(f"{path} has {whole:,} bytes, expected {_end(position):,} with {last} at its end; {ASK_AGAIN}")
    while chunk := file.read(CHUNK):
        if any(chunk):
            raise UserError(f"{path} is damaged behind {last}, its last file; {ASK_AGAIN}")


def extract(file: BinaryIO, member: Member, to: Path) -> str:
    """Write a member into a new file; return its sha256."""
    digest, left = hashlib.sha256(), member.size
    to.parent.mkdir(parents=True, exist_ok=True)
    file.seek(member.start)
    with to.open("xb") as written:
        while left:
            chunk = file.read(min(left, CHUNK))
            if not chunk:
                raise UserError(f"{file.name} is cut in {member.name}; {ASK_AGAIN}")
            digest.update(chunk)
            written.write(chunk)
            left -= len(chunk)
    return digest.hexdigest()


def read_member(file: BinaryIO, member: Member) -> bytes:
    """Return what a small member holds."""
    file.seek(member.start)
    return file.read(member.size)
