"""Files written whole or not at all.

Every write goes to a temporary name in the same folder, is flushed to the disk and then takes the final name, so a kill
leaves the old file or the new one, never half of one. What cannot be stored raises.
"""

import csv
import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from alignbench.errors import UserError
from alignbench.reading import read_json_lines, read_json_object

if TYPE_CHECKING:
    from PIL import Image

OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
CHECK = "check"  # key of the digest of a JSON record in itself


@contextmanager
def stored_in(path: Path) -> Iterator[None]:
    """Raise what libraries make of a full or broken disk as the OSError that it is, naming `path`."""
    try:
        yield
    except Exception as error:
        number = _number_of(error)
        if number is None or (isinstance(error, OSError) and error.filename):
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def _number_of(error: BaseException) -> int | None:
    """Return the number of the system's error that an error came of: its own, in its text, or of one before it."""
    seen: BaseException | None = error
    while seen is not None:
        number = seen.errno if isinstance(seen, OSError) else None
        if number is None and (match := re.search(r"\(os error (\d+)\)|\[Errno (\d+)\]", str(seen))):
            number = int(match[1] or match[2])
        if number in OF_THE_DISK:
            return number
        seen = seen.__cause__ or seen.__context__
    return None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on leaving, make its content durable and give it the final name."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        with stored_in(path):
            yield temporary
            _flush(temporary)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _flush(path.parent)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`; on leaving, make its files durable and let it take the place of `path`."""
    path = Path(path)
    partial = _temporary(path)
    partial.mkdir(parents=True)
    try:
        with stored_in(path):
            yield partial
            flush_files(partial)
            shutil.rmtree(path, ignore_errors=True)
            os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    _flush(path.parent)


def remove_unfinished_folders(path: Path) -> None:
    """Take away what kills in `replacing_folder` have left of a folder, or in it; nobody else writes to it now."""
    for left in (*path.glob(".*.tmp"), *path.parent.glob(f".{escape(path.name)}.*.tmp")):
        if left.is_dir():
            shutil.rmtree(left)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time in; `path` is a file for this alone."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def flush_files(path: Path) -> None:
    """Make a file, or a folder and all that is in it, durable, and its name as well."""
    for one in (*path.rglob("*"), path, path.parent):
        _flush(one)


def _temporary(path: Path) -> Path:
    """Return a name beside `path` that no other process uses, on any machine: processes of containers share numbers."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically, line ends as given."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, indented and with a final newline."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_json_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line atomically."""
    write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def append_json_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Add lines to a log such as `train.jsonl`, first taking away a line that a kill has cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        if file.tell() and _last_byte(file) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
        file.write("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode())


def forget_later_steps(path: Path, step: int) -> None:
    """Take the lines of later steps out of a log, which a resumed run writes again."""
    write_json_lines(path, [line for line in read_json_lines(path) if line["step"] <= step])


def _last_byte(file: BinaryIO) -> bytes:
    file.seek(-1, os.SEEK_END)
    return file.read(1)


def with_check(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON record with a digest of itself, so that later damage to it is noticed."""
    return {**record, CHECK: _record_digest(record)}


def is_intact(record: Mapping[str, Any]) -> bool:
    """Say whether a JSON record has its digest, or none, as those of version 0.1.0."""
    return CHECK not in record or record[CHECK] == _record_digest(without_check(record))


def without_check(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON record without its digest."""
    return {key: value for key, value in record.items() if key != CHECK}


def _record_digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table atomically: floats to 9 significant digits, None and NaN as an empty cell, unix line ends."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_cell(row[name]) for name in columns] for row in rows)


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def write_png(path: Path, image: "Image.Image") -> None:
    """Write a picture atomically; equal pixels give equal bytes."""
    with replacing(path) as temporary:
        image.save(temporary, format="PNG")


def home_path(text: str) -> Path:
    """Return a path with the home folder for `~`, which a shell leaves as it is in `--out=~/x`."""
    return Path(text).expanduser()


def cache_folder() -> Path:
    """Return the folder of what can be made again, shared by all results of this user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alignbench"


def file_digest(path: Path) -> str:
    """Return the digest of a large file that seldom changes, read once for each of its sizes and times of change."""
    path = Path(path).resolve()
    state = path.stat()
    seen = {"path": str(path), "size": state.st_size, "mtime_ns": state.st_mtime_ns}
    note = cache_folder() / "digests" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:32]}.json"
    if (digest := _known_digest(note, seen)) is None:
        digest = sha256(path)
        write_json(note, with_check({**seen, "sha256": digest}))
    return digest


def _known_digest(note: Path, seen: Mapping[str, Any]) -> str | None:
    """Return the digest that was noted of a file in the state in which it was seen; None for a damaged note."""
    if not note.exists():
        return None
    try:
        known = read_json_object(note)
    except UserError:
        return None
    return known.get("sha256") if is_intact(known) and seen.items() <= known.items() else None


def sha256(path: Path) -> str:
    """Return the digest of a file, or of a folder: over the names and digests of all files in it."""
    path = Path(path)
    if path.is_dir():
        return _folder_digest(path, sha256)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def quick_sha256(folder: Path) -> str:
    """Return the same as `sha256` of a folder; files whose size and time of change are known are not read."""
    return _folder_digest(folder, file_digest)


def _folder_digest(folder: Path, digest: Callable[[Path], str]) -> str:
    inside = sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
    lines = (f"{file.relative_to(folder).as_posix()}\0{digest(file)}\n" for file in inside)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
