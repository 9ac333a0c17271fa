"""Scores of training images by a method's scorer: computed once for each data set, in batches, and kept."""

from pathlib import Path

import torch
from PIL import Image
from tqdm.auto import tqdm

from alignbench.data.source import PairSource
from alignbench.data.storage.tensor_store import TensorStore, key_of
from alignbench.errors import UserError
from alignbench.evaluator import Evaluator
from alignbench.work_share import WorkShare

Key = tuple[str, str]  # prompt, and key of the picture within the data
PART_SIZE = 1024  # images an entry of the store: a killed pass loses no more
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
    store = TensorStore(_folder(data, scorer, cache))
    scores: dict[Key, float] = {}
    for number, part in enumerate(_parts(data, part_size)):
        entry = store.get(_part_key(part))
        if entry is None:
            raise UserError(f"part {number} of the scores by {scorer.name} is not there any more; start again")
        scores |= dict(zip(part, entry["scores"].tolist(), strict=True))
    return scores


@torch.no_grad()
def add_scores(
    data: PairSource, scorer: Evaluator, cache: Path, work_share: WorkShare, part_size: int = PART_SIZE
) -> None:
    """Score this process's share of the images, but for those whose scores are there and as they were written.

    Raises:
        UserError: the scorer cannot judge some of the prompts, or a score is not finite.
    """
    if refusal := scorer.supports(data.prompts):
        raise UserError(refusal)
    store = TensorStore(_folder(data, scorer, cache))
    parts = work_share.share(_parts(data, part_size))
    store.discard_damaged([store.shard([_part_key(part)]) for part in parts])
    store.refresh()
    todo = [part for part in parts if _part_key(part) not in store]
    with tqdm(
        total=sum(map(len, todo)), desc=f"score training images with {scorer.name}", unit="image",
        disable=not todo or not work_share.is_main, dynamic_ncols=True,
    ) as bar:  # fmt: skip
        for part in todo:
            scores: list[float] = []
            for start in range(0, len(part), BATCH_SIZE):
                some = part[start : start + BATCH_SIZE]
                pixels = [data.image(key).pixels for _, key in some]
                videos = [[Image.fromarray(frame) for frame in one.reshape(-1, *one.shape[-3:])] for one in pixels]
                found = scorer.score_videos(videos, [prompt for prompt, _ in some])
                if wrong := [key for (_, key), known in zip(some, found.isfinite().tolist(), strict=True) if not known]:
                    raise UserError(
                        f"{scorer.name} gives the training image {wrong[0]} a score that is not a finite number; to "
                        "leave the image out, write its name on a line of a text file, and set data.exclude to the "
                        "path of that file"
                    )
                scores += found.tolist()
                bar.update(len(some))
            store.add({_part_key(part): {"scores": torch.tensor(scores, dtype=torch.float64)}})


def _parts(data: PairSource, size: int) -> list[list[Key]]:
    keys = list(dict.fromkeys((pair.prompt, key) for pair in data.pairs for key in (pair.key_w, pair.key_l)))
    return [keys[start : start + size] for start in range(0, len(keys), size)]


def _part_key(part: list[Key]) -> bytes:
    return key_of(*(text for key in part for text in key))


def _folder(data: PairSource, scorer: Evaluator, cache: Path) -> Path:
    return cache / f"{scorer.name}@{scorer.version}-{scorer.precision}" / data.fingerprint
