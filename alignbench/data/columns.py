"""Tables whose cells are images: parquet files as published, and the arrow files that `datasets` writes.

Light columns are read at once; an image is read with the chunk of its column that it lies in, and the last chunks are
kept. In arrow files, which are mapped into memory, that chunk is nothing but the image. In parquet files it is a row
group, which readers cannot cut: go through those in order, or keep what is computed from the images.
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

from alignbench.data.stores import EncodedImage, ImageStore
from alignbench.errors import UserError

if TYPE_CHECKING:
    import pyarrow

KEPT_CHUNKS = 2  # one for each image of a pair; row groups of Pick-a-Pic hold about 175 MB a column
BATCH = 64  # rows


@dataclass(frozen=True)
class CellImage(EncodedImage):
    """A cell of a table: place `row` of a chunk of a column."""

    file: Path
    chunk: int
    column: str
    row: int

    def open(self) -> BinaryIO | None:
        cells = _arrow_chunk if self.file.suffix == ".arrow" else _parquet_chunk
        value = cells(self.file, self.chunk, self.column)[self.row].as_py()
        if isinstance(value, dict):  # the image type of `datasets`
            value = value["bytes"]
        return None if value is None else io.BytesIO(value)


_kept: "OrderedDict[tuple[Path, int, str], pyarrow.ChunkedArray]" = OrderedDict()


def _parquet_chunk(file: Path, chunk: int, column: str) -> "pyarrow.ChunkedArray":
    """Return a column of a row group. The oldest that was kept goes first: the three are never there at once."""
    key = (file, chunk, column)
    if key in _kept:
        _kept.move_to_end(key)
        return _kept[key]
    while len(_kept) >= KEPT_CHUNKS:
        _kept.popitem(last=False)
    _kept[key] = _read_group(file, chunk, column)
    return _kept[key]


def _read_group(file: Path, chunk: int, column: str) -> "pyarrow.ChunkedArray":
    import pyarrow
    from pyarrow import parquet

    # in batches, which are not copied into one array once more
    batches = parquet.ParquetFile(file).iter_batches(BATCH, row_groups=[chunk], columns=[column], use_threads=False)
    return pyarrow.chunked_array([batch.column(0) for batch in batches])


def _arrow_chunk(file: Path, chunk: int, column: str) -> "pyarrow.Array":
    return _mapped(file)[chunk].column(column)


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
    """

    def __init__(self, files: Sequence[Path], folder: Path, columns: Sequence[str]) -> None:
        self._files = list(files)
        self._names = [file.relative_to(folder).as_posix() if file != folder else file.name for file in files]
        self._numbers = {name: place for place, name in enumerate(self._names)}
        self._columns = list(columns)
        sizes = [_sizes(file) for file in files]
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
        return CellImage(name, self._files[place], chunk, self._columns[column], row - self._starts[position])

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


def texts_and_places(column: "pyarrow.ChunkedArray") -> tuple[list[str], np.ndarray]:
    """Return the distinct texts of a column, and of each row the place of its text, int32; none at all is a blank."""
    import pyarrow
    from pyarrow import compute

    filled = compute.fill_null(column.cast(pyarrow.large_string()), "")
    encoded = filled.combine_chunks().dictionary_encode()
    if isinstance(encoded, pyarrow.ChunkedArray):
        encoded = encoded.unify_dictionaries().combine_chunks()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False).astype(np.int32)
