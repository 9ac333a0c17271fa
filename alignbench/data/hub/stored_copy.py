"""The rows of a data set of the hub that a command asks for, kept in the user's cache as a folder of local data.

A copy is made once and in whole: it takes its place when its last row is stored. A killed command leaves the rows that
it had in a folder beside it, and the next one streams on from there. Images are named by their sha256, so that an image
of several rows is stored once.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Self, TypedDict

from tqdm import tqdm

from alignbench.data.hub.columns import IMAGES, Layout, find_columns, stored_row
from alignbench.data.hub.stream import COMMIT, HUB_ID, Rows, Split, find_commit
from alignbench.data.storage.text_tables import TextRow
from alignbench.errors import UserError
from alignbench.files import (
    append_json_lines,
    cache_folder,
    locked,
    write_json,
    write_json_lines,
)
from alignbench.reading import read_json_lines
from alignbench.settings.data import HubSettings

CHUNK = 200  # rows between two notes of how far the copy is
BLOBS = "blobs"  # names of files in such a folder are taken for digests, as in the cache of huggingface_hub
STATE = "state.json"  # of an unfinished copy
ORIGIN = "origin.json"  # of a finished one: for people


class HubOptions(TypedDict):
    """The configuration keys that say which rows are copied; `HubSettings` declares them."""

    path: str
    config_name: str | None
    part: str
    revision: str | None
    num_samples: int | None
    shuffle_buffer: int | None
    shuffle_seed: int


@dataclass(frozen=True)
class StoredCopy:
    """Rows of a data set of the hub, streamed when they are first asked for.

    Attributes:
        layout: what the rows are, and how they are stored.
        columns: the user's columns by role; None where usual names are to be looked for.
        options: which rows are copied.
        check: refuses a row that cannot be read again, before more is streamed.
    """

    layout: Layout
    columns: dict[str, str | None]
    options: HubOptions
    check: Callable[[TextRow], object]

    @classmethod
    def of(
        cls,
        layout: Layout,
        columns: Mapping[str, str | None],
        options: Mapping[str, Any],
        check: Callable[[TextRow], object],
    ) -> Self:
        """Take what concerns the copy from the options of a source; nothing is read.

        Raises:
            UserError: a value is not allowed, or the path is neither a folder nor a hub id.
        """
        HubSettings.check(options, "data")
        path = options["path"]
        if not Path(path).is_dir() and not HUB_ID.fullmatch(path):
            raise UserError(f"data.path={path} is neither a folder nor a hub id such as owner/name")
        known: Any = {key: options[key] for key in HubOptions.__annotations__}
        return cls(layout, dict(columns), known, check)

    def folder(self) -> Path:
        """Return the folder of the copy; one process makes it while all others wait.

        Raises:
            UserError: the data set cannot be read, or a row is no sample of this kind.
        """
        request = json.dumps([self.layout.source, self.columns, self.options], sort_keys=True)
        copies = cache_folder() / "hub" / hashlib.sha256(request.encode()).hexdigest()[:16]
        with locked(copies / ".lock"):
            state = self._state(copies)
            folder = copies / state
            if not folder.exists():
                self._copy(folder, None if Path(self.options["path"]).is_dir() else state)
        return folder

    def _state(self, copies: Path) -> str:
        """Return what names the state of the data set: its commit, or a digest of the files of a folder.

        Without a connection it is that of the newest copy.
        """
        path = self.options["path"]
        if Path(path).is_dir():
            return _digest_of_folder(Path(path))
        try:
            return find_commit(path, self.options["revision"])
        except UserError:
            finished = [file for file in copies.glob(f"*/{ORIGIN}") if COMMIT.fullmatch(file.parent.name)]
            if not finished:
                raise
            return max(finished, key=lambda file: file.stat().st_mtime_ns).parent.name

    def _copy(self, folder: Path, commit: str | None) -> None:
        options = self.options
        split = Split(options["path"], options["config_name"], options["part"], commit)
        stream = split.open()
        # without declared columns, as of JSON, those of the first row
        names = stream.features or next(iter(stream.take(1)), {})
        columns = find_columns(self.layout, self.columns, names, split.path)
        buffer_size = options["shuffle_buffer"]
        rows = Rows(split, stream, columns, None if buffer_size is None else (options["shuffle_seed"], buffer_size))
        partial = folder.with_name(f"{folder.name}.partial")
        number = self._store(rows, partial)
        if not number:
            raise UserError(f"data.part={split.part} of {split.path} has no rows")
        write_json(partial / ORIGIN, {**options, "commit": commit, "columns": columns, "rows": number})
        (partial / STATE).unlink()
        os.sync()
        os.replace(partial, folder)

    def _store(self, rows: Rows, partial: Path) -> int:
        """Store the rows that an unfinished copy lacks; return the number of all rows."""
        list_file, state_file = partial / self.layout.list, partial / STATE
        done: dict[str, Any] = {"rows": 0, "bytes": 0, "stream": None}
        if state_file.exists():
            done = json.loads(state_file.read_bytes())
        # rows behind the note are streamed again
        write_json_lines(list_file, read_json_lines(list_file)[: done["rows"]] if done["rows"] else [])
        wanted = self.options["num_samples"]
        number, size = done["rows"], done["bytes"]
        left = None if wanted is None else wanted - number
        with tqdm(
            total=wanted, initial=number, desc=f"stream {self.options['path']}", unit="row", dynamic_ncols=True,
            disable=None,
        ) as bar:  # fmt: skip
            streamed = islice(rows.after(number, done["stream"]), left)
            while chunk := list(islice(self._stored(streamed, number + 1, partial), CHUNK)):
                append_json_lines(list_file, [row for row, _ in chunk])
                os.sync()  # all files at once, since the disk may take longer to flush an image than the net to send it
                number, size = number + len(chunk), size + sum(num_bytes for _, num_bytes in chunk)
                write_json(state_file, {"rows": number, "bytes": size, "stream": rows.state})
                bar.set_postfix_str(f"{size / 1e6:,.0f} MB")
                bar.update(len(chunk))
        return number

    def _stored(
        self, streamed: Iterator[dict[str, Any]], first: int, partial: Path
    ) -> Iterator[tuple[dict[str, Any], int]]:
        """Store the images of rows; yield the rows as the list has them, and the bytes of their images."""
        for number, row in enumerate(streamed, first):
            images = {role: content for role, content in row.items() if role in IMAGES}
            names = {role: _store(content, partial, f"row {number}, {role}") for role, content in images.items()}
            found = stored_row(self.layout, {**row, **names})
            self.check(TextRow(f"row {number} of {self.options['path']}", found))
            yield found, sum(map(_num_bytes, images.values()))


def _store(content: Any, folder: Path, location: str) -> Any:
    """Store an image, or a list of images; return the name of its file."""
    if isinstance(content, list):
        return [_store(one, folder, location) for one in content]
    return location if content is None else _store_image(folder, content)  # no such file: it counts as missing


def _num_bytes(content: Any) -> int:
    if isinstance(content, list):
        return sum(map(_num_bytes, content))
    return 0 if content is None else len(content)


def _store_image(folder: Path, content: bytes) -> str:
    name = f"{BLOBS}/{hashlib.sha256(content).hexdigest()}"
    if not (folder / name).exists():
        unfinished = folder / BLOBS / "unfinished"
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(content)
        os.replace(unfinished, folder / name)
    return name


def _digest_of_folder(folder: Path) -> str:
    """Return a digest of names, sizes and times of change, which changes when a file does."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    stats = {file.relative_to(folder).as_posix(): file.stat() for file in files}
    known = {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:40]
