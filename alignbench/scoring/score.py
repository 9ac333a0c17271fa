"""Scores of evaluation images and videos: one pass over them for all evaluators.

Evaluators see single images. The score of a video is the mean of the scores of all its frames.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import chain
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor

from alignbench.errors import UserError
from alignbench.evaluator import Evaluator, Preprocess
from alignbench.scoring.network_pool import NetworkPool
from alignbench.scoring.partial_scores import Entry, FrameScores, ScoreTable
from alignbench.scoring.preparation import (
    ImageToScore,
    Passes,
    Prepared,
    default_num_threads,
    digests_of,
    images_to_score,
    take,
)
from alignbench.scoring.prompt_cache import TextCache
from alignbench.store.image_records import ImageSet
from alignbench.store.run_folder import RunFolder
from alignbench.store.scores import ScoreInfo
from alignbench.work_share import WorkShare


@torch.no_grad()
def score(
    folder: RunFolder,
    images: ImageSet,
    evaluators: Sequence[Evaluator],
    batch_size: int,
    network_pool: NetworkPool | None = None,
    work_share: WorkShare | None = None,
    progress: bool = True,
    num_threads: int | None = None,
) -> int:
    """Score the images that have no score yet; return how many of all images are left for other shards.

    Images are decoded once, in threads, and preprocessed once for all evaluators that share a preprocessing; networks
    that are the same see them once; a prompt is encoded once, for all runs. Scores are kept as they come, so that a
    killed command goes on where it was. A file that has changed since it was scored is scored again.

    Args:
        batch_size: images or frames that go through a network at once.
        network_pool: the networks on the device that is scored on; the CPU by default.
        work_share: which part falls to this process.
        num_threads: threads that prepare images, which changes no score; None for one a core, at most 8.

    Raises:
        UserError: an evaluator has no meaning for the prompts, an image is missing (then nothing is scored), or images
            cannot be scored (then all others are).
    """
    for evaluator in evaluators:
        if refusal := evaluator.supports([record.prompt for record in images.records]):
            raise UserError(refusal)
    work_share, network_pool = work_share or WorkShare(), network_pool or NetworkPool(torch.device("cpu"))
    wanted = images_to_score(folder, images)
    tables = {e.name: ScoreTable(folder, images.prompt_set, images.sampling_hash, info(e)) for e in evaluators}
    batches = work_share.batches(wanted, batch_size)  # as images are made, so that a shard scores what it made
    todo = _todo([*chain.from_iterable(work_share.share(batches))], tables)
    pictures = [picture for picture in wanted if any(picture in some for some in todo.values())]
    _refuse_missing(folder, [*chain.from_iterable(work_share.shard_of(batches))], images, tables)
    passes = _passes([evaluator for evaluator in evaluators if todo[evaluator.name]])
    preprocesses = list(dict.fromkeys(sharing[0].preprocess for sharing in passes))
    encoded: dict[str, dict[str, Any]] = {}  # evaluator -> prompt -> what it reads of it
    frame_scores = FrameScores(images.num_frames)
    num_threads = num_threads or default_num_threads(work_share.num_processes)
    is_shown = progress and work_share.is_main
    title = f"score {folder.short_name}"
    going = Passes(title, passes, pictures, preprocesses, images, batch_size, num_threads, is_shown)
    with closing(going.steps()) as steps:
        for sharing, chunk in steps:
            for evaluator in sharing:
                if evaluator.name not in encoded:
                    prompts = dict.fromkeys(picture.prompt for picture in todo[evaluator.name])
                    encoded[evaluator.name] = _encode(evaluator, list(prompts), batch_size, network_pool)
            network_pool.use(sharing[0])
            for batch in chunk:
                _score_batch(batch, sharing, todo, encoded, tables, frame_scores, work_share)
    faults = going.faults
    if work_share.num_processes > 1:
        faults = gather_object(faults)  # all have scored when this returns
    if faults:
        remedy = "delete them and add generate to stages" if images.generated else "mend them or take them out"
        raise UserError(f"{len(faults)} of {len(wanted)} images cannot be scored, such as {faults[0]}; {remedy}")
    return finish(folder, images, evaluators) if work_share.is_main else 0


def finish(folder: RunFolder, images: ImageSet, evaluators: Sequence[Evaluator]) -> int:
    """Make the tables of those evaluators that have scored all images; return how many of these some have not."""
    tables = [ScoreTable(folder, images.prompt_set, images.sampling_hash, info(evaluator)) for evaluator in evaluators]
    return max(table.finish([picture.key for picture in images_to_score(folder, images)]) for table in tables)


def info(evaluator: Evaluator) -> ScoreInfo:
    """Return what a table says of the evaluator that filled it."""
    return ScoreInfo(
        evaluator=evaluator.name,
        version=evaluator.version,
        preprocess=evaluator.preprocess.key,
        precision=evaluator.precision,
        higher_is_better=evaluator.higher_is_better,
        display_scale=evaluator.display_scale,
        weights=evaluator.weights,
        summary=evaluator.summary,
        overall=evaluator.overall,
    )


# ---- what there is to do


def _todo(share: Sequence[ImageToScore], tables: Mapping[str, ScoreTable]) -> dict[str, dict[ImageToScore, None]]:
    """Return for each evaluator the images that have no score from it, or had other content when they got it."""
    digests = digests_of([one for one in share if any(one.key in table.known for table in tables.values())])

    def has_score(picture: ImageToScore, table: ScoreTable) -> bool:
        entry = table.known.get(picture.key)
        return entry is not None and digests[picture] in (entry.digest, None)  # what is gone keeps its score

    return {
        name: {picture: None for picture in share if not has_score(picture, table)} for name, table in tables.items()
    }


def _refuse_missing(
    folder: RunFolder, pictures: Sequence[ImageToScore], images: ImageSet, tables: Mapping[str, ScoreTable]
) -> None:
    """Refuse images of this shard that are gone and lack a score; all its processes find the same."""
    unknown = (picture for picture in pictures if any(picture.key not in table.known for table in tables.values()))
    missing = [picture.path for picture in unknown if not picture.path.exists()]
    if missing:
        remedy = "add generate to stages to make them" if images.generated else "put them back or take them out"
        if folder.is_from_capsule:
            remedy = f"{folder.name} came from a capsule, which holds thumbnails alone: score a run before it is packed"
        raise UserError(f"{len(missing)} of {len(pictures)} images are missing, such as {missing[0]}; {remedy}")


def _passes(evaluators: Sequence[Evaluator]) -> list[list[Evaluator]]:
    """Group evaluators that see the same through the same network; the first of each group computes it for all."""
    passes: dict[tuple[Preprocess, str], list[Evaluator]] = {}
    # those that have the network anyway, for their prompts, come first
    for evaluator in sorted(evaluators, key=lambda evaluator: not evaluator.caches_text):
        seen = evaluator.shared_pass or f"that of {evaluator.name}"
        passes.setdefault((evaluator.preprocess, seen), []).append(evaluator)
    return list(passes.values())


# ---- evaluators


def _encode(evaluator: Evaluator, prompts: Sequence[str], batch_size: int, network_pool: NetworkPool) -> dict[str, Any]:
    """Return what the evaluator reads of each prompt; what a network makes of it is kept on the disk."""
    cache = TextCache(evaluator) if evaluator.caches_text else None
    known = cache.read(prompts) if cache else {}
    # prompts of one length together, so that short ones are not filled up to the longest
    missing = sorted((prompt for prompt in prompts if prompt not in known), key=len)
    if missing:
        network_pool.use(evaluator)
        starts = range(0, len(missing), batch_size)
        parts = [evaluator.encode_prompts(missing[start : start + batch_size]) for start in starts]
        rows = [row for part in parts for row in (part.cpu() if isinstance(part, Tensor) else part)]
        if cache:
            cache.add(missing, torch.stack(rows))
        known |= dict(zip(missing, rows, strict=True))
    return known


def _score_batch(
    batch: Prepared,
    sharing: Sequence[Evaluator],
    todo: Mapping[str, Mapping[ImageToScore, None]],
    encoded: Mapping[str, Mapping[str, Any]],
    tables: Mapping[str, ScoreTable],
    frame_scores: FrameScores,
    work_share: WorkShare,
) -> None:
    """Score the images of a batch that evaluators of one pass have not scored yet, and keep the scores."""
    first = sharing[0]
    batch = batch.where([any(picture in todo[evaluator.name] for evaluator in sharing) for picture in batch.pictures])
    if not batch.pictures:
        return
    features = first.image_features(batch.inputs[first.preprocess])
    for evaluator in sharing:
        rows = [row for row, picture in enumerate(batch.pictures) if picture in todo[evaluator.name]]
        if rows:
            pictures = [batch.pictures[row] for row in rows]
            text = [encoded[evaluator.name][picture.prompt] for picture in pictures]
            scores, evidence = evaluator.explain(take(features, rows), _stacked(text))
            digests = [batch.digests[row] for row in rows]
            if any(evidence):  # before the scores: an image that has one is not scored again after a kill
                tables[evaluator.name].add_evidence([picture.key for picture in pictures], digests, evidence)
            found = [
                (picture.key, Entry(score, digest))
                for picture, value, digest in zip(pictures, scores.float().cpu().tolist(), digests, strict=True)
                if (score := frame_scores.add(evaluator.name, picture.key, value)) is not None
            ]
            if found:
                tables[evaluator.name].add(work_share, [key for key, _ in found], [entry for _, entry in found])


def _stacked(rows: Sequence[Any]) -> Any:
    return torch.stack(list(rows)) if isinstance(rows[0], Tensor) else list(rows)
