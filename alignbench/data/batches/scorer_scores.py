"""Scores of training images by a method's scorer: computed once for each data set, in batches, and kept."""

from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from alignbench.data.batches.fill_cache import fill, parts_to_make
from alignbench.data.source import PairSource
from alignbench.data.storage.tensor_store import Entry, TensorStore, key_of
from alignbench.errors import UserError
from alignbench.evaluator import Evaluator
from alignbench.work_share import WorkShare

Key = tuple[str, str]  # prompt, and key of the picture within the data
PART_SIZE = 1024  # images a file: a killed pass loses no more
BATCH_SIZE = 32


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
        cache: folder of all score passes. There is a store for each scorer, version, precision and fingerprint of the
            data, so equal data are scored once for all runs, and a killed pass goes on where it was.
        rank, num_processes: each process scores its share of the parts and then reads those of the others.

    Raises:
        UserError: the scorer cannot judge some of the prompts.
    """
    add_scores(data, scorer, cache, WorkShare(rank, num_processes), part_size)
    if num_processes > 1:
        torch.distributed.barrier()
    keys, store = _keys(data), TensorStore(_folder(data, scorer, cache))
    scores: dict[Key, float] = {}
    for start in range(0, len(keys), part_size):
        part = keys[start : start + part_size]
        found = zip(part, store.read([key_of(*key) for key in part]), strict=True)
        scores |= {key: entry["score"].item() for key, entry in found if entry is not None}
    if len(scores) < len(keys):
        raise UserError(
            f"{len(keys) - len(scores)} of {len(keys)} scores of training images by {scorer.name} are not there any "
            "more; start again"
        )
    return scores


@torch.no_grad()
def add_scores(
    data: PairSource, scorer: Evaluator, cache: Path, work_share: WorkShare, part_size: int = PART_SIZE
) -> None:
    """Score this process's share of the images, but for those whose scores are there and as they were written.

    Raises:
        UserError: the scorer cannot judge some of the prompts.
    """
    if refusal := scorer.supports(data.prompts):
        raise UserError(refusal)
    store = TensorStore(_folder(data, scorer, cache))
    store.discard_damaged(store.files)  # in each process, so that all agree on what is missing
    store.refresh()
    todo = parts_to_make(_keys(data), _store_key, store, part_size, work_share)
    with tqdm(
        total=sum(map(len, todo)), desc=f"score training images with {scorer.name}", unit="image",
        disable=not todo or not work_share.is_main, dynamic_ncols=True,
    ) as bar:  # fmt: skip
        fill(store, todo, _store_key, (entry for part in todo for entry in _scored(data, scorer, part)), bar)


def _scored(data: PairSource, scorer: Evaluator, part: list[Key]) -> Iterator[Entry]:
    for start in range(0, len(part), BATCH_SIZE):
        some = part[start : start + BATCH_SIZE]
        pictures = [Image.fromarray(data.picture(key).pixels) for _, key in some]
        for score in scorer.score(pictures, [prompt for prompt, _ in some]).tolist():
            yield {"score": torch.tensor(score, dtype=torch.float64)}


def _keys(data: PairSource) -> list[Key]:
    return list(dict.fromkeys((pair.prompt, key) for pair in data.pairs for key in (pair.key_w, pair.key_l)))


def _store_key(key: Key) -> bytes:
    return key_of(*key)


def _folder(data: PairSource, scorer: Evaluator, cache: Path) -> Path:
    return cache / f"{scorer.name}@{scorer.version}-{scorer.precision}" / data.fingerprint
