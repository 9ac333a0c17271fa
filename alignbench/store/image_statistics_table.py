"""The image statistics of one image folder, measured once and kept beside its scores; of videos, of middle frames.

A row says of which file it is by the digest that its score has too. So statistics are measured again when the images
were made and scored again, and kept when there is another evaluator.

Tables of version 1 have fewer measures. Their images are measured again; what is gone keeps the figures that it has.
"""

import os
from collections.abc import Mapping
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

COLUMNS = {  # of all versions, and their Arrow types; later ones have more measures, and the side of the edges
    "prompt_id": "string", "image": "int64", "digest": "string", "thumbnail": "binary",
    **{name: "double" for name, version in MEASURES.items() if version == "1"},
}  # fmt: skip
NOT_MEASURED = 0  # side of the edges of an image that version 1 has measured
CHUNK = 256  # images measured between two writes; a kill loses no more
THREADS = 16  # at most: each holds an image in float32 several times, 100 MB at 1024 pixels


@dataclass(frozen=True)
class ImageToMeasure:
    """An image file as it was scored.

    Attributes:
        digest: of its content then, 32 hexadecimal digits; empty where nobody noted it and the file is gone.
    """

    path: str | Path
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
    there = {key: shown for key, shown in images.items() if shown.digest and os.path.exists(shown.path)}
    todo = [(key, shown) for key, shown in there.items() if not _is_measured(rows, key, shown)]
    num_threads = min(THREADS, len(os.sched_getaffinity(0)))
    if rows:
        written = path.stat().st_mtime_ns
        touched = [there[key] for key in there.keys() & rows if os.stat(there[key].path).st_ctime_ns > written]
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


def _is_measured(rows: StatisticsRows, key: ImageKey, shown: ImageToMeasure) -> bool:
    """Say whether all measures of an image as it was scored are there."""
    if key not in rows:
        return False
    digest, found = rows[key]
    return digest == shown.digest and found.edge_side != NOT_MEASURED


def _unchanged(shown: ImageToMeasure) -> bytes:
    """Return the content of an image file if it is what was scored."""
    content = Path(shown.path).read_bytes()
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
        "thumbnail": [rows[key][1].thumbnail.tobytes() for key in keys],
        "edge_side": [rows[key][1].edge_side for key in keys],
        **{name: [rows[key][1].figures[i] for key in keys] for i, name in enumerate(MEASURES)},
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
    if (table.schema.metadata or {}).get(b"alignbench") not in (b"1", VERSION.encode()):
        return {}
    nothing = [float("nan")] * len(table)
    found = {name: table.column(name).to_pylist() for name in table.column_names}
    sides = found.get("edge_side", [NOT_MEASURED] * len(table))
    figures = zip(*(found.get(name, nothing) for name in MEASURES), strict=True)
    rows = zip(found["prompt_id"], found["image"], found["digest"], figures, found["thumbnail"], sides, strict=True)
    return {
        (prompt_id, number): (digest, ImageStatistics(of_image, np.frombuffer(thumbnail, np.uint8), side))
        for prompt_id, number, digest, of_image, thumbnail, side in rows
    }
