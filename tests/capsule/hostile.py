"""Capsules that no packer writes, for tests of their readers."""

import hashlib
import io
import tarfile
from pathlib import Path

from alignbench.capsule.archive import ArchiveWriter
from alignbench.capsule.contents import CONTENTS, Contents
from alignbench.store.origin.capsule_record import RunContents


def written(path: Path, members: dict[str, bytes], close: bool = True) -> Path:
    """Write members in the form of a capsule, whatever they are."""
    with path.open("wb") as file:
        archive = ArchiveWriter(file)
        for name, content in members.items():
            archive.add(name, content)
        if close:
            archive.close()
    return path


def members_of(capsule: Path) -> dict[str, bytes]:
    """Return what the members of a capsule hold, but for its contents."""
    with tarfile.open(capsule) as archive:
        found = {one.name: archive.extractfile(one) for one in archive.getmembers()}
        return {name: file.read() for name, file in found.items() if file is not None and name != CONTENTS}


def listed(members: dict[str, bytes]) -> bytes:
    """Return a `contents.json` that lists members as they are, as a stranger would write it."""
    runs: dict[str, RunContents] = {}
    for name, content in members.items():
        _, run, file = name.split("/", 2)
        runs.setdefault(run, RunContents()).files[file] = hashlib.sha256(content).hexdigest()
    return Contents(runs=runs).text()


def forged(path: Path, members: dict[str, bytes]) -> Path:
    """Write a capsule whose digests are right, whatever its members are."""
    return written(path, {**members, CONTENTS: listed(members)})


def as_tar(path: Path, entries: list[tuple[tarfile.TarInfo, bytes]], kind: int = tarfile.USTAR_FORMAT) -> Path:
    """Write a tar file as the standard library does, with any kinds of entries."""
    with tarfile.open(path, "w", format=kind) as archive:
        for info, content in entries:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path
