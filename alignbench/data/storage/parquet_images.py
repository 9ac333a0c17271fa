"""Tables whose cells are images: parquet files as published, and the arrow files that `datasets` writes.

Light columns are read at once. An image of an arrow file, which is mapped into memory, is read alone. One of a parquet
file is read with its row group: 1000 rows with large images usually are a single page, which cannot be entered in the
middle. So the columns of the last row groups are kept, as many as were asked for in bytes, and the store tells which
images lie together, so that training goes through a few row groups at a time (see
`alignbench.data.storage.read_blocks`).
"""

import io
import re
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, chain
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from alignbench.data.storage.image_store import EncodedImage, ImageStore
from alignbench.data.storage.read_blocks import Blocks
from alignbench.errors import UserError

if TYPE_CHECKING:
    import pyarrow

BATCH = 64  # rows
BUFFER_BYTES = 2**20  # read at a time; without a limit a whole column of a row group is, before it is decoded


@dataclass(frozen=True)
class CellImage(EncodedImage):
    """A cell of a table: place `row` of a chunk of a column.

    Attributes:
        max_bytes: of row groups that may be kept in memory.
    """

    file: Path
    chunk: int
    column: str
    row: int
    max_bytes: int

    def open(self) -> BinaryIO | None:
        if self.file.suffix == ".arrow":
            column = _mapped(self.file)[self.chunk].column(self.column)
        else:
            column = _kept.cells(self.file, self.chunk, self.column, self.max_bytes)
        value = column[self.row].as_py()
        if isinstance(value, dict):  # the image type of `datasets`
            value = value["bytes"]
        return None if value is None else io.BytesIO(value)


class _Kept:
    """The row groups used last, of each the columns that were asked for; a process has one of these."""

    def __init__(self) -> None:
        self.groups: OrderedDict[tuple[Path, int], dict[str, pyarrow.ChunkedArray]] = OrderedDict()
        self.sizes: dict[tuple[Path, int], int] = {}

    def cells(self, file: Path, group: int, column: str, max_bytes: int) -> "pyarrow.ChunkedArray":
        """Return a column of a row group. What is forgotten for it goes before it is read, the least used first.

        Room is made for the whole group at once: reading a column takes three times its size, and what lies beside it
        then had better be needed.
        """
        place = (file, group)
        if place not in self.groups:
            size = _group_bytes(file)[group]
            while self.groups and sum(self.sizes.values()) + size > max_bytes:
                del self.sizes[self.groups.popitem(last=False)[0]]
            self.groups[place], self.sizes[place] = {}, size
        self.groups.move_to_end(place)
        columns = self.groups[place]
        if column not in columns:
            columns[column] = _read_column(file, group, column)
        return columns[column]


_kept = _Kept()


def _read_column(file: Path, group: int, column: str) -> "pyarrow.ChunkedArray":
    import pyarrow
    from pyarrow import parquet

    # in batches, which are not copied into one array once more
    with parquet.ParquetFile(file, buffer_size=BUFFER_BYTES, pre_buffer=False) as reader:
        batches = reader.iter_batches(BATCH, row_groups=[group], columns=[column], use_threads=False)
        cells = pyarrow.chunked_array([batch.column(0) for batch in batches])
    pyarrow.default_memory_pool().release_unused()
    return cells


def _group_bytes(file: Path) -> list[int]:
    """Return the size of each row group of a parquet file, not compressed."""
    from pyarrow import parquet

    metadata = parquet.read_metadata(file)
    return [metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups)]


@cache
def _mapped(file: Path) -> "list[pyarrow.RecordBatch]":
    """Return the batches of an arrow file, mapped into memory: nothing is read but where they lie."""
    import pyarrow

    return list(pyarrow.ipc.open_stream(pyarrow.memory_map(str(file))))


def find_tables(path: Path, part: str | None) -> list[Path]:
    """Return the tables in a folder, in order of their names; a table itself is one.

    Args:
        part: which published part: files that are called so, up to a dash and a digit, or lie in a folder of that name;
            `train` finds data/train-00000-of-00645.parquet, train/data-00000.arrow and x-train-00000.arrow. None takes
            all.

    Raises:
        UserError: there are none, or both parquet and arrow files.
    """
    if path.is_file():
        return [path]
    files = sorted(file for suffix in ("parquet", "arrow") for file in path.rglob(f"*.{suffix}"))
    files = [file for file in files if not file.name.startswith("cache-")]  # what `datasets` computed from others
    names = [file.relative_to(path).as_posix() for file in files]
    pattern = re.compile(rf"(^|[/-]){re.escape(part)}([.]|-\d|/)") if part else re.compile("")
    found = [file for file, name in zip(files, names, strict=True) if pattern.search(name)]
    if not found:
        held = (
            f"{len(names)} other tables, such as {names[0]}; set data.part" if names else "no .parquet or .arrow file"
        )
        raise UserError(f"data.path={path} holds no table of data.part={part}: it has {held}")
    if len({file.suffix for file in found}) > 1:
        raise UserError(f"data.path={path} holds both .parquet and .arrow files; give the folder of one kind")
    return found


class CellStore(ImageStore):
    """Images in columns of tables: number `row * len(columns) + column`, the rows of all files counted on.

    Args:
        files: of one kind and with the same columns.
        folder: that keys are relative to.
        columns: of images; in tables of `datasets` they have a type of their own.
        window_bytes: of row groups that are kept in memory, and whose rows training shows in one shuffle; None lets it
            shuffle all rows, each of which then costs a row group. There is always room for one row group.
    """

    def __init__(
        self, files: Sequence[Path], folder: Path, columns: Sequence[str], window_bytes: int | None = None
    ) -> None:
        self._files = list(files)
        self._names = [file.relative_to(folder).as_posix() if file != folder else file.name for file in files]
        self._numbers = {name: place for place, name in enumerate(self._names)}
        self._columns = list(columns)
        sizes = [_sizes(file) for file in files]
        self._shuffles_all = window_bytes is None or files[0].suffix == ".arrow"
        self._most = 1 if files[0].suffix == ".arrow" else max(chain([1], *map(_group_bytes, files)))
        self._max_bytes = max(self._most, window_bytes or 0)
        self._chunks = [(place, chunk) for place, rows in enumerate(sizes) for chunk in range(len(rows))]
        self._starts = [0, *accumulate(chain(*sizes))]  # first row of each chunk, and how many rows there are
        self._file_starts = [0, *accumulate(map(sum, sizes))]

    @property
    def num_rows(self) -> int:
        """Rows of all files."""
        return self._starts[-1]

    def __len__(self) -> int:
        return self.num_rows * len(self._columns)

    def image(self, number: int) -> EncodedImage:
        row, column = divmod(number, len(self._columns))
        position = bisect_right(self._starts, row) - 1
        place, chunk = self._chunks[position]
        name = f"{self._names[place]}/{row - self._file_starts[place]}/{self._columns[column]}"
        cell = row - self._starts[position]
        return CellImage(name, self._files[place], chunk, self._columns[column], cell, self._max_bytes)

    def blocks(self, numbers: np.ndarray) -> Blocks | None:
        """Return the row group of each image."""
        if self._shuffles_all:
            return None
        groups = np.searchsorted(self._starts, numbers // len(self._columns), side="right") - 1
        return Blocks(groups, self._max_bytes // self._most)

    def number(self, key: str) -> int | None:
        name, _, rest = key.rpartition("/")
        name, _, row = name.rpartition("/")
        place = self._numbers.get(name)
        if place is None or rest not in self._columns or not row.isdecimal():
            return None
        number = self._file_starts[place] + int(row)
        if number >= self._file_starts[place + 1]:
            return None
        return number * len(self._columns) + self._columns.index(rest)

    def files(self) -> dict[str, Path]:
        return dict(zip(self._names, self._files, strict=True))


def _sizes(file: Path) -> list[int]:
    """Return the number of rows of each chunk."""
    if file.suffix == ".arrow":
        return [len(batch) for batch in _mapped(file)]
    from pyarrow import parquet

    metadata = parquet.read_metadata(file)
    return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]


def column_names(file: Path) -> list[str]:
    """Return the names of a table's columns.

    Raises:
        UserError: the file is damaged, or still to be fetched.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        if file.suffix == ".arrow":
            return pyarrow.ipc.open_stream(pyarrow.memory_map(str(file))).schema.names
        return parquet.read_schema(file).names
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{file} is no {file.suffix} file, or was not copied whole: {error}") from None


def read_columns(files: Sequence[Path], columns: Sequence[str]) -> "pyarrow.Table":
    """Return some columns of all files, none of which holds images."""
    import pyarrow
    from pyarrow import parquet

    def one(file: Path) -> "pyarrow.Table":
        if file.suffix == ".arrow":
            return pyarrow.Table.from_batches(_mapped(file)).select(columns)
        return parquet.read_table(file, columns=list(columns), use_threads=False, partitioning="")

    return pyarrow.concat_tables([one(file) for file in files], promote_options="permissive")


def distinct_texts(column: "pyarrow.ChunkedArray") -> tuple[list[str], np.ndarray]:
    """Return the distinct texts of a column, and of each row the place of its text, int32; none at all is a blank."""
    import pyarrow
    from pyarrow import compute

    filled = compute.fill_null(column.cast(pyarrow.large_string()), "")
    encoded = filled.combine_chunks().dictionary_encode()
    if isinstance(encoded, pyarrow.ChunkedArray):
        encoded = encoded.unify_dictionaries().combine_chunks()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False).astype(np.int32)
