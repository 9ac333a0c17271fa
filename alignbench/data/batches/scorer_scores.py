"""Scores of training images by a method's scorer: computed once for each data set, in batches, and kept."""

import hashlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from alignbench.data.source import PairSource
from alignbench.errors import UserError
from alignbench.evaluator import Evaluator
from alignbench.files import replacing
from alignbench.work_share import WorkShare

Key = tuple[str, str]  # prompt, and key of the picture within the data
PART_SIZE = 1024  # images a file: a killed pass loses no more
BATCH_SIZE = 32
DIGEST = "sha256"  # of the columns, in the notes of a file


def score_pairs(
    data: PairSource,
    scorer: Evaluator,
    cache: Path,
    rank: int = 0,
    num_processes: int = 1,
    part_size: int = PART_SIZE,
) -> dict[Key, float]:
    """Return the score of every image of the pairs under its prompt, in the scorer's published scale.

    Args:
        cache: folder of all score passes. Files are named by scorer, version, precision and the fingerprint of the
            data, so equal data are scored once for all runs, and a killed pass goes on where it was.
        rank, num_processes: each process scores its share of the parts and then reads those of the others.

    Raises:
        UserError: the scorer cannot judge some of the prompts.
    """
    add_scores(data, scorer, cache, WorkShare(rank, num_processes), part_size)
    if num_processes > 1:
        torch.distributed.barrier()
    scores: dict[Key, float] = {}
    for number in range(len(_cut(_keys(data), part_size))):
        part = _read(_file(_folder(data, scorer, cache), number))
        if part is None:
            raise UserError(f"part {number} of the scores by {scorer.name} is not there any more; start again")
        scores |= part
    return scores


@torch.no_grad()
def add_scores(
    data: PairSource, scorer: Evaluator, cache: Path, work_share: WorkShare, part_size: int = PART_SIZE
) -> None:
    """Score this process's share of the images, but for parts that are there and as they were written.

    Raises:
        UserError: the scorer cannot judge some of the prompts.
    """
    if refusal := scorer.supports(data.prompts):
        raise UserError(refusal)
    folder = _folder(data, scorer, cache)
    parts = work_share.share(list(enumerate(_cut(_keys(data), part_size))))
    todo = [(number, part) for number, part in parts if _read(_file(folder, number)) is None]
    with tqdm(
        total=sum(len(part) for _, part in todo), desc=f"score training images with {scorer.name}", unit="image",
        disable=not todo or not work_share.is_main, dynamic_ncols=True,
    ) as bar:  # fmt: skip
        for number, part in todo:
            scores: list[float] = []
            for some in _cut(part, BATCH_SIZE):
                pictures = [Image.fromarray(data.image(key).pixels) for _, key in some]
                scores += scorer.score(pictures, [prompt for prompt, _ in some]).tolist()
                bar.update(len(some))
            _write(_file(folder, number), part, scores)


def _keys(data: PairSource) -> list[Key]:
    return list(dict.fromkeys((pair.prompt, key) for pair in data.pairs for key in (pair.key_w, pair.key_l)))


def _folder(data: PairSource, scorer: Evaluator, cache: Path) -> Path:
    return cache / f"{scorer.name}@{scorer.version}-{scorer.precision}" / data.fingerprint


def _cut(keys: Sequence[Key], size: int) -> list[Sequence[Key]]:
    return [keys[start : start + size] for start in range(0, len(keys), size)]


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.parquet"


def _write(path: Path, keys: Sequence[Key], scores: Sequence[float]) -> None:
    import pyarrow
    from pyarrow import parquet

    columns = {"prompt": [prompt for prompt, _ in keys], "picture": [key for _, key in keys], "score": list(scores)}
    table = pyarrow.table(columns)
    with replacing(path) as temporary:
        parquet.write_table(table.replace_schema_metadata({DIGEST: _digest(columns)}), temporary)


def _read(path: Path) -> dict[Key, float] | None:
    """Return the scores of a file; None if it is absent or, then deleted, not as it was written."""
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
        columns = table.to_pydict()
    except FileNotFoundError:
        return None
    except (pyarrow.ArrowException, OSError, ValueError):  # what damaged files lead to
        return _discard(path)
    if (table.schema.metadata or {}).get(DIGEST.encode(), b"").decode() != _digest(columns):
        return _discard(path)
    return dict(zip(zip(columns["prompt"], columns["picture"], strict=True), columns["score"], strict=True))


def _discard(path: Path) -> None:
    path.unlink(missing_ok=True)
    warnings.warn(f"{path} is damaged and was deleted; its images are scored again", RuntimeWarning, stacklevel=3)


def _digest(columns: dict[str, list]) -> str:
    return hashlib.sha256(json.dumps(columns).encode()).hexdigest()
