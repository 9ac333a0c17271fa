"""Tar shards in the layout of webdataset: files that share a name up to its first dot are one sample.

What the fields of a sample, the rest of their names, mean here:

- images end in .jpg, .jpeg, .png or .webp: one, or two that make a pair, in the order of their names;
- the prompt is txt, caption.txt, prompt.txt or original_prompt.txt, or under caption, prompt or text in json;
- the label of a pair is label_0.txt, the probability that the first image is preferred; of one image label.txt or cls,
  1 for desirable and 0 for not; or one of these names in json.

So sayakpaul/pickapic_v2_webdataset can be read, whose samples have jpg_0.jpg, jpg_1.jpg, original_prompt.txt and
label_0.txt (written as examples/research_projects/diffusion_orpo of diffusers says).

Shards are gone through once; where their members begin is kept in the user's cache. After that an image is read alone.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Unpack

import numpy as np
from tqdm import tqdm

from alignbench.data.existing_images.folders import IMAGE_SUFFIXES
from alignbench.data.sources.pair_table_source import Paired, PairOptions
from alignbench.data.sources.sample_table import Table
from alignbench.data.sources.table_source import Captioned, Contents, CorpusOptions, Labelled, LabelOptions
from alignbench.data.storage.image_store import EncodedImage, ImageStore
from alignbench.data.storage.parquet_images import texts_and_places
from alignbench.errors import UserError
from alignbench.files import cache_folder, replacing

if TYPE_CHECKING:
    import pyarrow

PROMPTS = ("txt", "caption.txt", "prompt.txt", "original_prompt.txt")
LABELS = ("label_0.txt", "label.txt", "cls")
IN_JSON = {"prompt": ("caption", "prompt", "text"), "label": ("label_0", "label", "cls")}
INDEX_VERSION = 1  # of what is kept of a shard
NOWHERE = -1  # offset of an image that a sample lacks


@dataclass(frozen=True)
class SpanImage(EncodedImage):
    """A stretch of a file, in bytes."""

    path: Path
    offset: int
    size: int

    def open(self) -> BinaryIO | None:
        if self.offset == NOWHERE:
            return None
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return io.BytesIO(file.read(self.size))


class ShardStore(ImageStore):
    """Images in tar files: number 2 * sample, or 2 * sample + 1 for the second; keys tell shard and first byte.

    Args:
        shards: the files.
        samples: how many each holds.
        offsets, sizes: of the images of each sample, in bytes, [samples, 2].
    """

    def __init__(self, shards: list[Path], samples: list[int], offsets: np.ndarray, sizes: np.ndarray) -> None:
        self._shards = shards
        self._numbers = {shard.name: place for place, shard in enumerate(shards)}
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


def read_shards(path: str, width: int) -> Contents:
    """Read the shards of a folder, or one shard.

    Args:
        width: images that a sample is expected to have.

    Raises:
        UserError: there are none, one is damaged, or their samples have another number of images.
    """
    place = Path(path)
    shards = [place] if place.is_file() else sorted(place.glob("*.tar"))
    if not shards:
        raise UserError(f"data.path={path} is no .tar file, and no folder with .tar files")
    bar = tqdm(shards, "index shards", unit="shard", dynamic_ncols=True, disable=None)
    found = [_index(shard) for shard in bar]
    samples = [len(index) for index in found]

    import pyarrow

    index = pyarrow.concat_tables(found)
    offsets, sizes = (
        np.column_stack([index[f"{name}_{side}"].to_numpy() for side in (0, 1)]) for name in ("offset", "size")
    )
    if len(index) and (width == 2) != bool((offsets[:, 1] != NOWHERE).any()):
        others = "data=webdataset_captions or data=webdataset_labels" if width == 2 else "data=webdataset"
        raise UserError(
            f"the samples of data.path={path} do not have {width} image{'s'[: width - 1]} each; add {others}"
        )
    texts, prompt = texts_and_places(index["prompt"])
    images = np.arange(offsets.size, dtype=np.int64).reshape(-1, 2)[:, :width]
    return Contents(
        Table(texts, prompt, images, index["label"].to_numpy()), ShardStore(shards, samples, offsets, sizes)
    )


def _index(shard: Path) -> "pyarrow.Table":
    """Return what is known of each sample of a shard: prompt, label, and where its images are."""
    import pyarrow
    from pyarrow import parquet

    state = shard.stat()
    known = f"{INDEX_VERSION}\0{shard.resolve()}\0{state.st_size}\0{state.st_mtime_ns}"
    note = cache_folder() / "shards" / f"{hashlib.sha256(known.encode()).hexdigest()[:32]}.parquet"
    if not note.exists():
        try:
            rows = list(_samples(shard))
        except tarfile.TarError as error:
            raise UserError(f"{shard} is no .tar file, or was not copied whole: {error}") from None
        schema = pyarrow.schema(
            {"prompt": pyarrow.string(), "label": pyarrow.float64()}
            | {f"{name}_{side}": pyarrow.int64() for side in (0, 1) for name in ("offset", "size")}
        )
        with replacing(note) as temporary:
            parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), temporary)
    return parquet.read_table(note)


def _samples(shard: Path) -> Iterator[dict[str, Any]]:
    name, fields = "", {}
    with tarfile.open(shard, "r:") as tar, shard.open("rb") as file:
        for member in tar:
            folder, _, file_name = member.name.rpartition("/")
            stem, _, field = file_name.partition(".")
            if not member.isfile() or not stem or not field:
                continue
            if (sample := f"{folder}/{stem}") != name:
                if fields:
                    yield _sample(fields, file, f"sample {name.strip('/')} of {shard}")
                name, fields = sample, {}
            fields[field.lower()] = member
    if fields:
        with shard.open("rb") as file:
            yield _sample(fields, file, f"sample {name.strip('/')} of {shard}")


def _sample(fields: dict[str, tarfile.TarInfo], file: BinaryIO, place: str) -> dict[str, Any]:
    images = [fields[field] for field in sorted(fields) if f".{field}".endswith(IMAGE_SUFFIXES)]
    if len(images) > 2:
        raise UserError(f"{place} has {len(images)} images; expected one or two")

    def content(field: str) -> str:
        file.seek(fields[field].offset_data)
        try:
            return file.read(fields[field].size).decode()
        except UnicodeDecodeError:
            raise UserError(f"{field} of {place} is not UTF-8") from None

    try:
        described = json.loads(content("json")) if "json" in fields else {}
        told = {"prompt": (PROMPTS, None), "label": (LABELS, float("nan"))}
        values = {}
        for what, (names, nothing) in told.items():
            texts = [content(name).strip() for name in names if name in fields]
            texts += [described[name] for name in IN_JSON[what] if described.get(name) is not None]
            values[what] = texts[0] if texts else nothing
        values["label"] = float(values["label"])
    except (ValueError, TypeError) as error:
        raise UserError(f"{place} has a label or json that cannot be read: {error}") from None
    for side in (0, 1):
        member = images[side] if side < len(images) else None
        values[f"offset_{side}"] = member.offset_data if member else NOWHERE
        values[f"size_{side}"] = member.size if member else 0
    return values


class ShardPairs(Paired):
    """Tar shards whose samples are pairs.

    Args:
        name: as typed in `data=`.
        path: a folder of .tar files, or one.
        options: see `alignbench.settings.data.PairSettings`.
    """

    def __init__(self, name: str, path: str, **options: Unpack[PairOptions]) -> None:
        super().__init__(name, options)
        self.path = existing(path)

    def read(self) -> Contents:
        return read_shards(self.path, width=2)


class ShardLabels(Labelled):
    """Tar shards whose samples are labelled images; arguments as of `ShardPairs`."""

    def __init__(self, name: str, path: str, **options: Unpack[LabelOptions]) -> None:
        super().__init__(name, options)
        self.path = existing(path)

    def read(self) -> Contents:
        return read_shards(self.path, width=1)


class ShardCaptions(Captioned):
    """Tar shards whose samples are images with captions; arguments as of `ShardPairs`."""

    def __init__(self, name: str, path: str, **options: Unpack[CorpusOptions]) -> None:
        super().__init__(name, options)
        self.path = existing(path)

    def read(self) -> Contents:
        return read_shards(self.path, width=1)


def existing(path: str) -> str:
    """Return a path that exists.

    Raises:
        UserError: it does not.
    """
    if not Path(path).exists():
        raise UserError(f"data.path={path} does not exist")
    return path
