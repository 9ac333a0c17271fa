"""Tar shards in the layout of webdataset: files with the same name up to the first dot are one sample.

The rest of a file name is its field. These fields are read:

- images: fields that end in one of `alignbench.images.SUFFIXES`; a single image, or a pair in the order of the names;
- prompt: txt, caption.txt, prompt.txt or original_prompt.txt; or caption, prompt or text in json;
- label of a pair: label_0.txt, the probability that the first image is preferred; or label_0 in json;
- label of a single image: label.txt or cls, 1 for desirable and 0 for not; or label or cls in json.

This covers sayakpaul/pickapic_v2_webdataset, whose samples have jpg_0.jpg, jpg_1.jpg, original_prompt.txt and
label_0.txt (see examples/research_projects/diffusion_orpo of diffusers).

Each shard is read once from beginning to end, and the offsets of its images are kept in the user's cache. After that
single images are read.
"""

import hashlib
import io
import tarfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Unpack

import numpy as np
from tqdm.auto import tqdm

from alignbench.data.sources.labels import number_or_nan
from alignbench.data.sources.pair_table_source import PairOptions, PairTableSource
from alignbench.data.sources.row_filters import unread
from alignbench.data.sources.sample_table import SampleTable
from alignbench.data.sources.table_source import CaptionedSource, Contents, LabelledSource, LabelOptions, TableOptions
from alignbench.data.storage.image_store import EncodedImage, ImageStore
from alignbench.data.storage.parquet_images import distinct_texts
from alignbench.errors import UserError
from alignbench.files import cache_folder, replacing
from alignbench.images import SUFFIXES
from alignbench.reading import parse_json, read_parquet

if TYPE_CHECKING:
    import pyarrow

PROMPTS = ("txt", "caption.txt", "prompt.txt", "original_prompt.txt")
LABELS = ("label_0.txt", "label.txt", "cls")
TEXTS = (".txt", ".json", ".cls")
IN_JSON = {"prompt": ("caption", "prompt", "text"), "label": ("label_0", "label", "cls")}
INDEX_VERSION = 2  # version of the kept index of a shard
INDEX = {  # columns of it, and their Arrow types
    "prompt": "string", "label": "double", "unread": "string", "offset_0": "int64", "size_0": "int64",
    "offset_1": "int64", "size_1": "int64",
}  # fmt: skip
ABSENT = -1  # offset of an image that a sample does not have
COMPRESSED = (".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclass(frozen=True)
class SpanImage(EncodedImage):
    """An image that is a range of bytes of a file."""

    path: Path
    offset: int
    size: int

    @property
    def location(self) -> str:
        return f"in a sample of {self.path}" if self.offset == ABSENT else f"{self.path}, byte {self.offset}"

    def open(self) -> BinaryIO | None:
        if self.offset == ABSENT:
            return None
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return io.BytesIO(file.read(self.size))


class ShardStore(ImageStore):
    """Images in tar files. The images of sample i have the numbers 2 i and 2 i + 1; keys name shard and first byte.

    Args:
        shards: the files.
        samples: number of samples in each shard.
        offsets, sizes: first byte and number of bytes of the images of each sample, [samples, 2].
    """

    def __init__(self, shards: list[Path], samples: list[int], offsets: np.ndarray, sizes: np.ndarray) -> None:
        self._shards = shards
        self._numbers = {shard.name: number for number, shard in enumerate(shards)}
        self._starts = np.cumsum([0, *samples])
        self._offsets, self._sizes = offsets, sizes

    def __len__(self) -> int:
        return self._offsets.size

    def image(self, number: int) -> EncodedImage:
        sample, side = divmod(number, 2)
        shard = self._shards[int(np.searchsorted(self._starts, sample, side="right")) - 1]
        offset = int(self._offsets[sample, side])
        return SpanImage(f"{shard.name}@{offset}", shard, offset, int(self._sizes[sample, side]))

    def number(self, key: str) -> int | None:
        name, _, offset = key.rpartition("@")
        shard = self._numbers.get(name)
        if shard is None or not offset.isdecimal():
            return None
        start, stop = self._starts[shard : shard + 2]
        found = np.flatnonzero(self._offsets[start:stop].ravel() == int(offset))
        return 2 * int(start) + int(found[0]) if len(found) else None

    def files(self) -> dict[str, Path]:
        return {shard.name: shard for shard in self._shards}


def read_shards(path: str, width: int, num_filtered: Counter[str]) -> Contents:
    """Read all shards of a folder, or one shard.

    Args:
        width: expected number of images in a sample, 1 or 2.
        num_filtered: receives the number of samples whose images have a format that is not read.

    Raises:
        UserError: there are no shards, one is compressed or damaged, or the samples have another number of images.
    """
    given = Path(path)
    shards = [given] if given.is_file() else sorted(given.glob("*.tar"))
    compressed = sorted(file for file in given.glob("*.tar.*") if file.name.endswith(COMPRESSED))
    if packed := [file for file in compressed if not file.with_suffix("").is_file()]:
        raise UserError(
            f"{packed[0]} is compressed, and single images cannot be read from it; unpack it to a .tar file"
        )
    if not shards:
        raise UserError(f"data.path={path} is neither a .tar file nor a folder with .tar files")
    bar = tqdm(shards, "index shards", unit="shard", dynamic_ncols=True, disable=None)
    found = [_index(shard) for shard in bar]
    samples = [len(index) for index in found]

    import pyarrow

    index = pyarrow.concat_tables(found)
    offsets, sizes = (
        np.column_stack([index[f"{name}_{side}"].to_numpy() for side in (0, 1)]) for name in ("offset", "size")
    )
    if (offsets[:, 0] != ABSENT).any() and (width == 2) != bool((offsets[:, 1] != ABSENT).any()):
        other_data = "data=webdataset_captions or data=webdataset_labels" if width == 2 else "data=webdataset"
        raise UserError(
            f"the samples of data.path={path} do not have {width} image{'s'[: width - 1]} each; use {other_data}"
        )
    texts, prompt = distinct_texts(index["prompt"])
    images = np.arange(offsets.size, dtype=np.int64).reshape(-1, 2)[:, :width]
    table = SampleTable(texts, prompt, images, index["label"].to_numpy())
    unread_as = index["unread"].to_pylist()
    num_filtered.update(reason for reason in unread_as if reason)
    table = table.rows(np.array([reason is None for reason in unread_as], bool))
    return Contents(table, ShardStore(shards, samples, offsets, sizes))


def _index(shard: Path) -> "pyarrow.Table":
    """Return prompt, label, and offsets and sizes of the images of each sample of a shard.

    If a sample has no image, `unread` is the reason under which its file of another format counts; else it is null.
    """
    import pyarrow
    from pyarrow import parquet

    state = shard.stat()
    known = f"{INDEX_VERSION}\0{shard.resolve()}\0{state.st_size}\0{state.st_mtime_ns}"
    kept = cache_folder() / "shards" / f"{hashlib.sha256(known.encode()).hexdigest()[:32]}.parquet"
    if not kept.exists():
        rows = list(_samples(shard))
        schema = pyarrow.schema([(name, pyarrow.type_for_alias(kind)) for name, kind in INDEX.items()])
        with replacing(kept) as temporary:
            parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), temporary, write_page_checksum=True)
    return read_parquet(kept, INDEX, f"delete this index of {shard} to make it again", check_pages=True)


def _samples(shard: Path) -> Iterator[dict[str, Any]]:
    name, fields = "", {}
    with _tar_errors(shard), tarfile.open(shard, "r:") as tar, shard.open("rb") as file:
        for member in tar:
            folder, _, file_name = member.name.encode(errors="replace").decode().rpartition("/")
            stem, _, field = file_name.partition(".")
            if not member.isfile() or not stem or not field:
                continue
            if (sample := f"{folder}/{stem}") != name:
                if fields:
                    yield _sample(fields, file, f"sample {name.strip('/')} of {shard}")
                name, fields = sample, {}
            fields[field.lower()] = member
        if fields:
            yield _sample(fields, file, f"sample {name.strip('/')} of {shard}")
        file.seek(tar.offset)  # where the library stops without a word, at zeros or at a damaged header
        while block := file.read(2**20):
            if block.strip(b"\0"):
                raise tarfile.ReadError(f"it is damaged at byte {tar.offset:,}")


@contextmanager
def _tar_errors(shard: Path) -> Iterator[None]:
    """Raise what is raised of a damaged shard as the sentence about it."""
    try:
        yield
    except UserError:
        raise
    except (tarfile.TarError, ValueError, OverflowError) as error:  # numbers in a header that cannot be
        raise UserError(f"{shard} is not a .tar file, or is incomplete: {error}") from None


def _sample(fields: dict[str, tarfile.TarInfo], file: BinaryIO, location: str) -> dict[str, Any]:
    images = [fields[field] for field in sorted(fields) if f".{field}".endswith(SUFFIXES)]
    if len(images) > 2:
        raise UserError(f"{location} has {len(images)} images; expected one or two")

    def content(field: str) -> str:
        file.seek(fields[field].offset_data)
        try:
            return file.read(fields[field].size).decode()
        except UnicodeDecodeError:
            raise UserError(f"{field} of {location} is not UTF-8") from None

    try:
        described = parse_json(content("json"), f"json of {location}") if "json" in fields else {}
        fields_of = {"prompt": (PROMPTS, None), "label": (LABELS, float("nan"))}
        values = {}
        for what, (names, default) in fields_of.items():
            texts = [content(name).strip() for name in names if name in fields]
            texts += [described[name] for name in IN_JSON[what] if described.get(name) is not None]
            values[what] = texts[0] if texts else default
        values["label"] = number_or_nan(values["label"])
        if not isinstance(values["prompt"], str | None):
            raise TypeError(f"{values['prompt']!r} is no prompt")
    except UserError:
        raise
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{location} has a label or json that cannot be read: {error}") from None
    unknown = [field for field in fields if not f".{field}".endswith((*SUFFIXES, *TEXTS))]
    values["unread"] = unread(f".{unknown[0]}") if unknown and not images else None
    for side in (0, 1):
        member = images[side] if side < len(images) else None
        values[f"offset_{side}"] = member.offset_data if member else ABSENT
        values[f"size_{side}"] = member.size if member else 0
    return values


class ShardPairs(PairTableSource):
    """Tar shards whose samples are pairs.

    Args:
        name: as typed in `data=`.
        path: a folder of .tar files, or one .tar file.
        options: see `alignbench.settings.data.PairSettings`.
    """

    def __init__(self, name: str, path: str, **options: Unpack[PairOptions]) -> None:
        super().__init__(name, options)
        self.path = existing(path)

    def read(self) -> Contents:
        return read_shards(self.path, width=2, num_filtered=self.num_filtered)


class ShardLabels(LabelledSource):
    """Tar shards whose samples are labelled images; arguments as for `ShardPairs`."""

    def __init__(self, name: str, path: str, **options: Unpack[LabelOptions]) -> None:
        super().__init__(name, options)
        self.path = existing(path)

    def read(self) -> Contents:
        return read_shards(self.path, width=1, num_filtered=self.num_filtered)


class ShardCaptions(CaptionedSource):
    """Tar shards whose samples are images with captions; arguments as for `ShardPairs`."""

    def __init__(self, name: str, path: str, **options: Unpack[TableOptions]) -> None:
        super().__init__(name, options)
        self.path = existing(path)

    def read(self) -> Contents:
        return read_shards(self.path, width=1, num_filtered=self.num_filtered)


def existing(path: str) -> str:
    """Return a path, if it exists.

    Raises:
        UserError: the path does not exist.
    """
    if not Path(path).exists():
        raise UserError(f"data.path={path} does not exist")
    return path
