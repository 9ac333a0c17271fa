"""Tables whose cells are images: published parquet files, and the arrow files that `datasets` writes.

Columns of texts and labels are read at once. Arrow files are mapped into memory, so a single image is read from them.
An image of a parquet file is read with its whole row group: 1000 rows with large images usually are a single page,
which cannot be read in part. So the most recently read row groups stay in memory, up to a number of bytes, and the
store says which images are in one row group. Training then reads a few row groups at a time (see
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
from alignbench.reading import parquet_errors

if TYPE_CHECKING:
    import pyarrow

FETCH_AGAIN = "fetch it again"
BATCH = 64  # rows read at a time
BUFFER_BYTES = 2**20  # read at a time; without it, a whole column of a row group is read before decoding


@dataclass(frozen=True)
class CellImage(EncodedImage):
    """A cell of a table: row `row` of a chunk of a column.

    Attributes:
        max_bytes: bytes of row groups that may stay in memory.
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
            value = value.get("bytes")
        return io.BytesIO(value) if isinstance(value, bytes) else None


class _Kept:
    """The most recently used row groups, with those of their columns that were read. One object for each process."""

    def __init__(self) -> None:
        self.groups: OrderedDict[tuple[Path, int], dict[str, pyarrow.ChunkedArray]] = OrderedDict()
        self.sizes: dict[tuple[Path, int], int] = {}

    def cells(self, file: Path, group: int, column: str, max_bytes: int) -> "pyarrow.ChunkedArray":
        """Return a column of a row group. The least recently used row groups are removed before it is read.

        Memory is freed for all columns of the row group at once, because reading a column takes three times its size,
        and the other columns are usually read next.
        """
        key = (file, group)
        if key not in self.groups:
            size = _group_bytes(file)[group]
            while self.groups and sum(self.sizes.values()) + size > max_bytes:
                del self.sizes[self.groups.popitem(last=False)[0]]
            self.groups[key], self.sizes[key] = {}, size
        self.groups.move_to_end(key)
        columns = self.groups[key]
        if column not in columns:
            columns[column] = _read_column(file, group, column)
        return columns[column]


_kept = _Kept()


def _read_column(file: Path, group: int, column: str) -> "pyarrow.ChunkedArray":
    import pyarrow
    from pyarrow import parquet

    # in batches: `read_row_group` would copy all cells once more
    with (
        parquet_errors(file, FETCH_AGAIN),
        parquet.ParquetFile(file, buffer_size=BUFFER_BYTES, pre_buffer=False) as reader,
    ):
        batches = reader.iter_batches(BATCH, row_groups=[group], columns=[column], use_threads=False)
        cells = pyarrow.chunked_array([batch.column(0) for batch in batches])
    pyarrow.default_memory_pool().release_unused()
    return cells


def _group_bytes(file: Path) -> list[int]:
    """Return the uncompressed size of each row group of a parquet file, in bytes."""
    from pyarrow import parquet

    with parquet_errors(file, FETCH_AGAIN):
        metadata = parquet.read_metadata(file)
    return [metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups)]


@cache
def _mapped(file: Path) -> "list[pyarrow.RecordBatch]":
    """Return the batches of an arrow file, mapped into memory; only their offsets and texts are read."""
    import pyarrow

    with parquet_errors(file, FETCH_AGAIN):
        batches = list(pyarrow.ipc.open_stream(pyarrow.memory_map(str(file))))
        for batch in batches:
            batch.validate(full=True)  # or a damaged offset would lead anywhere in memory
    return batches


def find_tables(path: Path, part: str | None) -> list[Path]:
    """Return the tables in a folder, sorted by name; given a file, return that file.

    Args:
        part: the published part. A file belongs to it if its name up to a dash and a digit, or the name of its folder,
            is that of the part: `train` finds data/train-00000-of-00645.parquet, train/data-00000.arrow and
            x-train-00000.arrow. None finds all files.

    Raises:
        UserError: there are no tables, or both parquet and arrow files.
    """
    if path.is_file():
        return [path]
    files = sorted(file for suffix in ("parquet", "arrow") for file in path.rglob(f"*.{suffix}"))
    files = [file for file in files if not file.name.startswith("cache-")]  # `datasets` computed these from other files
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
    """Images in columns of tables; an image has the number `row * len(columns) + column`, rows counted over all files.

    Args:
        files: files of one kind with the same columns.
        folder: the file names in keys are relative to it.
        columns: names of the columns of images; in tables of `datasets` they may have its image type.
        window_bytes: bytes of row groups that stay in memory; training shuffles the rows of these together. None
            shuffles all rows, so that each image costs reading a row group. One row group always stays in memory.
    """

    def __init__(
        self, files: Sequence[Path], folder: Path, columns: Sequence[str], window_bytes: int | None = None
    ) -> None:
        self._files = list(files)
        self._names = [file.relative_to(folder).as_posix() if file != folder else file.name for file in files]
        self._numbers = {name: number for number, name in enumerate(self._names)}
        self._columns = list(columns)
        sizes = [_sizes(file) for file in files]
        self._shuffles_all = window_bytes is None or files[0].suffix == ".arrow"
        self._most = 1 if files[0].suffix == ".arrow" else max(chain([1], *map(_group_bytes, files)))
        self._max_bytes = max(self._most, window_bytes or 0)
        self._chunks = [
            (number, chunk) for number, rows in enumerate(sizes) for chunk in range(len(rows))
        ]  # file and chunk
        self._starts = [0, *accumulate(chain(*sizes))]  # first row of each chunk, and the number of rows
        self._file_starts = [0, *accumulate(map(sum, sizes))]

    @property
    def num_rows(self) -> int:
        """Number of rows in all files."""
        return self._starts[-1]

    def __len__(self) -> int:
        return self.num_rows * len(self._columns)

    def image(self, number: int) -> EncodedImage:
        row, column = divmod(number, len(self._columns))
        position = bisect_right(self._starts, row) - 1
        file, chunk = self._chunks[position]
        name = f"{self._names[file]}/{row - self._file_starts[file]}/{self._columns[column]}"
        cell = row - self._starts[position]
        return CellImage(name, self._files[file], chunk, self._columns[column], cell, self._max_bytes)

    def blocks(self, numbers: np.ndarray) -> Blocks | None:
        """Return the row group of each image."""
        if self._shuffles_all:
            return None
        groups = np.searchsorted(self._starts, numbers // len(self._columns), side="right") - 1
        return Blocks(groups, self._max_bytes // self._most)

    def number(self, key: str) -> int | None:
        name, _, rest = key.rpartition("/")
        name, _, row = name.rpartition("/")
        file = self._numbers.get(name)
        if file is None or rest not in self._columns or not row.isdecimal():
            return None
        number = self._file_starts[file] + int(row)
        if number >= self._file_starts[file + 1]:
            return None
        return number * len(self._columns) + self._columns.index(rest)

    def files(self) -> dict[str, Path]:
        return dict(zip(self._names, self._files, strict=True))


def _sizes(file: Path) -> list[int]:
    """Return the number of rows of each chunk."""
    if file.suffix == ".arrow":
        return [len(batch) for batch in _mapped(file)]
    from pyarrow import parquet

    with parquet_errors(file, FETCH_AGAIN):
        metadata = parquet.read_metadata(file)
    return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]


def column_names(file: Path) -> list[str]:
    """Return the names of a table's columns.

    Raises:
        UserError: the file is damaged or incomplete.
    """
    import pyarrow
    from pyarrow import parquet

    with parquet_errors(file, FETCH_AGAIN):
        if file.suffix == ".arrow":
            return pyarrow.ipc.open_stream(pyarrow.memory_map(str(file))).schema.names
        return parquet.read_schema(file).names


def read_columns(files: Sequence[Path], columns: Sequence[str]) -> "pyarrow.Table":
    """Return some columns of all files; for columns without images.

    Raises:
        UserError: a file is damaged, or lacks a column, or the files do not fit each other.
    """
    import pyarrow
    from pyarrow import parquet

    def one(file: Path) -> "pyarrow.Table":
        with parquet_errors(file, FETCH_AGAIN):
            if file.suffix == ".arrow":
                table = pyarrow.Table.from_batches(_mapped(file)).select(columns)
            else:
                with parquet.ParquetFile(file) as reader:
                    table = reader.read(columns=list(columns), use_threads=False).select(columns)
            table.validate(full=True)
            return table

    tables = [one(file) for file in files]
    with parquet_errors(files[0].parent, "the columns of all files must be of the same types"):
        return pyarrow.concat_tables(tables, promote_options="permissive")


def read_numbers(columns: "pyarrow.Table", name: str, file: Path) -> np.ndarray:
    """Return a column of numbers or truth values, [N], float64; NaN where it has none.

    Raises:
        UserError: it holds something else.
    """
    from pyarrow import float64, types

    column = columns[name]
    kind = column.type
    if not (types.is_floating(kind) or types.is_integer(kind) or types.is_boolean(kind) or types.is_null(kind)):
        raise UserError(f"{file} has {kind} in column {name}, expected numbers")
    if types.is_boolean(kind):
        column = column.cast("int8")
    return column.cast(float64(), safe=False).to_numpy()


def check_texts(columns: "pyarrow.Table", names: Sequence[str], file: Path) -> None:
    """Refuse columns that hold something else than texts, or numbers that stand for them.

    Raises:
        UserError: naming the column.
    """
    from pyarrow import types

    for name in names:
        kind = columns[name].type
        inner = kind.value_type if types.is_dictionary(kind) else kind
        known = (types.is_string, types.is_large_string, types.is_string_view, types.is_integer, types.is_null)
        if not any(one(inner) for one in known):
            raise UserError(f"{file} has {kind} in column {name}, expected text")


def distinct_texts(column: "pyarrow.ChunkedArray") -> tuple[list[str], np.ndarray]:
    """Return the distinct texts of a column, and the index of each row's text, int32; a missing text is empty."""
    import pyarrow
    from pyarrow import compute

    filled = compute.fill_null(column.cast(pyarrow.large_string()), "")
    encoded = filled.combine_chunks().dictionary_encode()
    if isinstance(encoded, pyarrow.ChunkedArray):
        encoded = encoded.unify_dictionaries().combine_chunks()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False).astype(np.int32)
