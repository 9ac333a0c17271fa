"""Images of runs with their prompts and scores, as a data set in the layout of the hub.

One row an image, in Parquet files that `datasets.load_dataset` reads. Images keep the bytes of their files, each of
which is what its scores were given to. A few rows are in memory at a time.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from alignbench.errors import UserError
from alignbench.exports.dataset_card import dataset_card
from alignbench.exports.model_card import PLACE
from alignbench.files import replacing_folder, write_text
from alignbench.images import ImageError
from alignbench.reading import read_json_object
from alignbench.report.contenders import Measurement
from alignbench.report.readable import readable
from alignbench.report.tables import build, measurements
from alignbench.store.image_records import SAMPLING, ImageKey, read_prompts
from alignbench.store.manifest import ResultsError
from alignbench.store.run_folder import RunFolder, checked, run_folders
from alignbench.store.scores import digest_of_content
from alignbench.videos import still

if TYPE_CHECKING:
    import pyarrow

ROWS = 100  # of a row group, as `push_to_hub` has of data sets with images
SHARD_BYTES = 500 * 10**6  # of images, about, as files of the hub are
FILES = "data/train-*"

Row = dict[str, Any]


def export_dataset(root: Path, out: Path, repository: str | None = None) -> int:
    """Write all images under a results root that are still there into a new folder; return their number.

    Args:
        repository: the hub id that the lines of the page load from; None for the folder itself.

    Raises:
        UserError: the folder is in use, or there are no runs or no images.
        ResultsError: an image is not what was scored, or a file of a run has changed.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out} exists and is not empty; give a new folder")
    if RunFolder(root).manifest_file.exists():
        raise UserError(f"{root} is one run; give the results folder, here {Path(root).resolve().parent}")
    if not run_folders(root):
        raise UserError(f"{root} holds no runs; give a results folder")
    found = readable(root, with_images=True)
    folders = found.runs
    tables = build(root, folders=folders, studies=found.studies, reader=found.reader)
    for name, reason in (found.left_out | tables.left_out).items():
        print(f"{name} is left out: {reason}")
    scores = sorted({column for folder in folders for column in score_columns(folder)})
    with replacing_folder(out) as partial:
        counts = {folder.name: 0 for folder in folders}

        def counted() -> Iterator[Row]:
            for folder in folders:
                for row in rows_of(folder, tables.left_out):
                    counts[folder.name] += 1
                    yield row

        write_shards(counted(), schema(scores), partial / "data")
        number = sum(counts.values())
        if not number:
            raise UserError(f"the runs of {root} have no images any more; add generate to stages to make them again")
        name, place = (out.resolve().name, PLACE) if repository is None else (repository, repository)
        write_text(partial / "README.md", dataset_card(name, place, folders, counts, scores, tables, FILES))
    print(f"{number} images of {sum(map(bool, counts.values()))} runs written to {out}; load them with")
    print(f'datasets.load_dataset("{out}", split="train")')
    return number


def score_columns(folder: RunFolder) -> list[str]:
    """Return the columns of a run's scores, from its ledger; no score is read."""
    files = (PurePosixPath(name) for name in folder.manifest.files)
    return [score_column(*file.stem.rsplit("@", 1)) for file in files if file.parts[0] == "scores" and "@" in file.name]


def score_column(evaluator: str, version: str) -> str:
    """Return the name of the column of an evaluator's scores.

    >>> score_column("pickscore", "1")
    'score_pickscore_v1'
    """
    return f"score_{evaluator}_v{version}"


def schema(scores: Sequence[str]) -> "pyarrow.Schema":
    """Return the columns of the data set, with what tells `datasets` that one of them holds images."""
    from datasets import Features, Image, List, Value

    text = Value("string")
    columns: dict[str, Any] = {
        "model": text,
        "method": text,
        "run": text,
        "seed": Value("int64"),
        "prompt_set": text,
        "prompt_id": text,
        "prompt": text,
        "groups": List(text),
        "image_number": Value("int32"),
        "image": Image(),
        "sampling": text,
        **{name: Value("float32") for name in scores},
    }
    return Features(columns).arrow_schema


@dataclass(frozen=True)
class ScoredImages:
    """The scores of one image folder: by image, each evaluator's by its column, and the digest of what was scored."""

    scores: dict[ImageKey, dict[str, float]]
    digests: dict[ImageKey, set[str]]

    @classmethod
    def of(cls, measured: Iterable[Measurement]) -> "ScoredImages":
        found = cls({}, {})
        for entry in measured:
            info = entry.scores.info
            column = score_column(info.evaluator, info.version)
            values = zip(entry.keys, entry.scores.score.tolist(), entry.scores.digest.tolist(), strict=True)
            for key, score, digest in values:
                found.scores.setdefault(key, {})[column] = score
                found.digests.setdefault(key, set()).add(digest)
        return found


def rows_of(folder: RunFolder, left_out: Collection[str]) -> Iterator[Row]:
    """Yield a row for each image of a run that is still there.

    Args:
        left_out: folders of images and files of scores that are passed over, by their path in the results.

    Raises:
        ResultsError: an image is not what was scored or is damaged, or a file of the run has changed.
    """
    manifest, root = folder.manifest, folder.path.parent
    measured = [
        entry
        for entry in measurements(folder)
        if _score_file(folder, entry).relative_to(root).as_posix() not in left_out
    ]
    for images in sorted(file.parent for file in folder.path.glob("images/*/*/prompts.jsonl")):
        if images.relative_to(root).as_posix() in left_out:
            continue
        prompt_set, sampling_hash = images.parts[-2:]
        sampling = json.dumps(read_json_object(checked(images / SAMPLING)))
        scored = ScoredImages.of(
            entry
            for entry in measured
            if (entry.sampling.prompt_set, entry.sampling_hash) == (prompt_set, sampling_hash)
        )
        for record in read_prompts(images):
            for number, name in enumerate(record.images):
                file, key = images / name, (record.prompt_id, number)
                if not file.exists():
                    continue
                yield {
                    "model": manifest.model,
                    "method": manifest.method,
                    "run": manifest.run,
                    "seed": manifest.seed,
                    "prompt_set": prompt_set,
                    "prompt_id": record.prompt_id,
                    "prompt": record.prompt,
                    "groups": list(record.groups),
                    "image_number": number,
                    "image": {"bytes": _content(file, scored.digests.get(key, set())), "path": file.name},
                    "sampling": sampling,
                    **scored.scores.get(key, {}),
                }


def _score_file(folder: RunFolder, entry: Measurement) -> Path:
    info = entry.scores.info
    return folder.score_file(entry.sampling.prompt_set, entry.sampling_hash, info.evaluator, info.version)


def _content(file: Path, digests: set[str]) -> bytes:
    """Return an image file, if it is what all its scores are of; one without a score only has to be an image."""
    content = file.read_bytes()
    if digests - {digest_of_content(content)}:
        raise ResultsError(f"{file} has changed since it was scored; add score to stages to score it again")
    try:
        still(content)
    except ImageError as error:
        raise ResultsError(f"{file} {error}; delete it, and add generate to stages to make it again") from None
    return content


def write_shards(rows: Iterable[Row], columns: "pyarrow.Schema", folder: Path) -> None:
    """Write rows into Parquet files of about `SHARD_BYTES`, in row groups of `ROWS`."""
    import pyarrow
    from pyarrow import parquet

    folder.mkdir()
    rows, shard = iter(rows), 0
    group = list(islice(rows, ROWS))
    while group:
        with parquet.ParquetWriter(folder / f"train-{shard:05d}.parquet", columns) as writer:
            size = 0
            while group and size < SHARD_BYTES:
                writer.write_table(pyarrow.Table.from_pylist(group, columns))
                size += sum(len(row["image"]["bytes"]) for row in group)
                group = list(islice(rows, ROWS))
        shard += 1
