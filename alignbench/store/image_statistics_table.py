"""The image statistics of one image folder, measured once and kept beside its scores; of videos, of middle frames.

A row says of which file it is by the digest that its score has too. So statistics are measured again when the images
were made and scored again, and kept when there is another evaluator.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from alignbench.errors import UserError
from alignbench.files import replacing
from alignbench.reading import read_parquet
from alignbench.statistics.image_statistics import MEASURES, VERSION, ImageStatistics, image_statistics
from alignbench.store.image_records import ImageKey
from alignbench.store.manifest import ResultsError
from alignbench.store.run_folder import RunFolder
from alignbench.store.scores import digest_of_content
from alignbench.videos import still

COLUMNS = {  # and their Arrow types
    "prompt_id": "string", "image": "int64", "digest": "string", **dict.fromkeys(MEASURES, "double"),
    "thumbnail": "binary",
}  # fmt: skip
CHUNK = 256  # images measured between two writes; a kill loses no more
THREADS = 16  # at most: each holds an image in float32 several times, 100 MB at 1024 pixels


@dataclass(frozen=True)
class ImageToMeasure:
    """An image file as it was scored.

    Attributes:
        digest: of its content then, 32 hexadecimal digits.
    """

    path: Path
    digest: str


StatisticsRows = dict[ImageKey, tuple[str, ImageStatistics]]  # the digest of each image, and what was measured of it


def measured(path: Path, images: Mapping[ImageKey, ImageToMeasure]) -> dict[ImageKey, ImageStatistics]:
    """Return the statistics of images, measuring those that were not measured yet and are still there.

    Args:
        path: the table to read and to add to.

    Raises:
        ResultsError: a file is not what was scored.
    """
    rows = _read(path) if path.exists() else {}
    there = {key: shown for key, shown in images.items() if shown.path.exists()}
    todo = [(key, shown) for key, shown in there.items() if not (key in rows and rows[key][0] == shown.digest)]
    num_threads = min(THREADS, len(os.sched_getaffinity(0)))
    if rows:
        written = path.stat().st_mtime_ns
        touched = [there[key] for key in there.keys() & rows if there[key].path.stat().st_ctime_ns > written]
        if touched:
            with ThreadPoolExecutor(num_threads) as pool:
                list(pool.map(_unchanged, touched))
            os.utime(path)  # the next report need not read them again
    label = f"image statistics {RunFolder(path.parents[2]).short_name}"
    # decoding and array operations let other threads work
    with (
        ThreadPoolExecutor(num_threads) as pool,
        tqdm(total=len(todo), desc=label, unit="image", disable=None if todo else True, leave=None) as bar,
    ):
        for start in range(0, len(todo), CHUNK):
            part = todo[start : start + CHUNK]
            for (key, shown), found in zip(part, pool.map(lambda entry: _measure(entry[1]), part), strict=True):
                rows[key] = shown.digest, found
                bar.update()
            _write(path, rows)
    return {key: rows[key][1] for key, shown in images.items() if key in rows and rows[key][0] == shown.digest}


def _unchanged(shown: ImageToMeasure) -> bytes:
    """Return the content of an image file if it is what was scored."""
    content = shown.path.read_bytes()
    if digest_of_content(content) != shown.digest:
        raise ResultsError(f"{shown.path} has changed since it was scored; add score to stages to score it again")
    return content


def _measure(shown: ImageToMeasure) -> ImageStatistics:
    return image_statistics(np.asarray(still(_unchanged(shown))))


def _write(path: Path, rows: StatisticsRows) -> None:
    import pyarrow
    from pyarrow import parquet

    keys = sorted(rows)
    columns = {
        "prompt_id": [prompt_id for prompt_id, _ in keys],
        "image": [number for _, number in keys],
        "digest": [rows[key][0] for key in keys],
        **{name: [rows[key][1].figures[i] for key in keys] for i, name in enumerate(MEASURES)},
        "thumbnail": [rows[key][1].thumbnail.tobytes() for key in keys],
    }
    table = pyarrow.table(columns).replace_schema_metadata({"alignbench": VERSION})
    with replacing(path) as temporary:
        parquet.write_table(table, temporary, write_page_checksum=True)


def _read(path: Path) -> StatisticsRows:
    """Return what was measured before; nothing where it was measured in another way, or the table is damaged."""
    try:
        table = read_parquet(path, COLUMNS, check_pages=True)
    except UserError:  # the images are there, and are measured again
        return {}
    if (table.schema.metadata or {}).get(b"alignbench") != VERSION.encode():
        return {}
    columns = [table.column(name).to_pylist() for name in COLUMNS]
    return {
        (prompt_id, number): (digest, ImageStatistics(tuple(figures), np.frombuffer(thumbnail, np.uint8)))
        for prompt_id, number, digest, *figures, thumbnail in zip(*columns, strict=True)
    }


def stacked(found: Mapping[ImageKey, ImageStatistics], keys: Sequence[ImageKey]) -> np.ndarray:
    """Return the thumbnails of some images in levels of 0..1, [N, 192]."""
    return np.stack([found[key].thumbnail for key in keys]) / 255
