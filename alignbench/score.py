"""Scores of evaluation images: one pass over the images for all evaluators."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate.utils import broadcast_object_list, gather_object
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from alignbench.data.prompts import PromptSet
from alignbench.errors import UserError
from alignbench.evaluator import Evaluator, Preprocess
from alignbench.generate import Sampling
from alignbench.results import RunFolder, ScoreInfo, Scores, image_name

T = TypeVar("T")
R = TypeVar("R")
Key = tuple[str, int]  # prompt id and image number


def scored(folder: RunFolder, prompt_set: PromptSet, sampling: Sampling, evaluator: Evaluator) -> bool:
    """Say whether every image of these prompts has its score."""
    return not _wanted(prompt_set, sampling).keys() - _scores(folder, prompt_set, sampling, evaluator).keys()


@torch.no_grad()
def score(
    folder: RunFolder,
    prompt_set: PromptSet,
    sampling: Sampling,
    evaluators: Sequence[Evaluator],
    rank: int = 0,
    num_processes: int = 1,
    progress: bool = True,
) -> None:
    """Score the images of a prompt set that have no score yet, and write one table an evaluator.

    Images are decoded once and preprocessed once for all evaluators that share a preprocessing; a prompt is encoded
    once. Each process scores every `num_processes`-th image; the main process writes. Evaluators work where their
    networks lie.

    Raises:
        UserError: if an image is missing or damaged, or an evaluator has no meaning for the prompts.
    """
    for evaluator in evaluators:
        if refusal := evaluator.supports(prompt_set.texts):
            raise UserError(refusal)
    images, batch_size = folder.images(prompt_set.name, sampling.hash), sampling.batch_size
    text_of = _wanted(prompt_set, sampling)
    known = {evaluator.name: _scores(folder, prompt_set, sampling, evaluator) for evaluator in evaluators}
    todo, names = _from_main(_missing(text_of, known), num_processes)
    pending = [evaluator for evaluator in evaluators if evaluator.name in names]
    _refuse_missing(images, todo)
    share = todo[rank::num_processes]
    preprocesses = list(dict.fromkeys(evaluator.preprocess for evaluator in pending))

    # text
    prompts = list(dict.fromkeys(text_of[key] for key in share))
    position = {prompt: number for number, prompt in enumerate(prompts)}
    encoded = {evaluator.name: _encode(evaluator, prompts, batch_size) for evaluator in pending}

    # images
    def inputs_of(batch: list[Key]) -> dict[Preprocess, Any]:
        pictures = [_open(images / image_name(*key)) for key in batch]
        return {preprocess: preprocess(pictures) for preprocess in preprocesses}

    batches = [share[start : start + batch_size] for start in range(0, len(share), batch_size)]
    values: dict[str, list[Tensor]] = {evaluator.name: [] for evaluator in pending}
    with tqdm(
        total=len(share), desc=f"score {prompt_set.name}", unit="image",
        disable=not (progress and rank == 0 and share), dynamic_ncols=True,
    ) as bar:  # fmt: skip
        for batch, inputs in zip(batches, _ahead(inputs_of, batches, num_processes), strict=True):
            rows = [position[text_of[key]] for key in batch]
            for evaluator in pending:
                scores = evaluator.score_inputs(inputs[evaluator.preprocess], _take(encoded[evaluator.name], rows))
                values[evaluator.name].append(scores.float().cpu())
            bar.update(len(batch))

    # tables
    for evaluator in pending:
        new = list(zip(share, torch.cat(values[evaluator.name]).tolist() if share else [], strict=True))
        if num_processes > 1:
            new = gather_object(new)
        if rank == 0:
            rows = known[evaluator.name] | dict(new)
            table = Scores.of(info(evaluator), [key[0] for key in rows], [key[1] for key in rows], list(rows.values()))
            path = folder.score_file(prompt_set.name, sampling.hash, evaluator.name, evaluator.version)
            table.write(path)
            folder.complete("score", f"{prompt_set.name}/{sampling.hash}/{evaluator.name}@{evaluator.version}", [path])


def info(evaluator: Evaluator) -> ScoreInfo:
    """Return what a table says of the evaluator that filled it."""
    return ScoreInfo(
        evaluator=evaluator.name,
        version=evaluator.version,
        preprocess=evaluator.preprocess.key,
        precision=evaluator.precision,
        higher_is_better=evaluator.higher_is_better,
        display_scale=evaluator.display_scale,
    )


def _wanted(prompt_set: PromptSet, sampling: Sampling) -> dict[Key, str]:
    return {(record.prompt_id, k): record.prompt for record in prompt_set for k in range(sampling.images_per_prompt)}


def _scores(folder: RunFolder, prompt_set: PromptSet, sampling: Sampling, evaluator: Evaluator) -> dict[Key, float]:
    """Return the scores that are there already, if they were made the same way."""
    path = folder.score_file(prompt_set.name, sampling.hash, evaluator.name, evaluator.version)
    if not path.exists():
        return {}
    table = Scores.read(path)
    if table.info != info(evaluator):
        raise UserError(f"{path} was scored as {table.info}, expected {info(evaluator)}; delete it to score again")
    return dict(zip(zip(table.prompt_id, table.image.tolist(), strict=True), table.score.tolist(), strict=True))


def _missing(wanted: Iterable[Key], known: Mapping[str, Mapping[Key, float]]) -> tuple[list[Key], list[str]]:
    """Return the images that lack a score, and the names of the evaluators that have yet to give one."""
    keys = [key for key in wanted if any(key not in scores for scores in known.values())]
    return keys, [name for name, scores in known.items() if any(key not in scores for key in keys)]


def _from_main(value: T, num_processes: int) -> T:
    """Return the main process's value: what it writes meanwhile must not make the others see less to do."""
    values = [value]
    return values[0] if num_processes == 1 else broadcast_object_list(values)[0]


def _refuse_missing(images: Path, keys: Sequence[Key]) -> None:
    missing = [name for name in (image_name(*key) for key in keys) if not (images / name).exists()]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(keys)} images are missing in {images}, such as {missing[0]}; "
            "add generate to stages to make them"
        )


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            return picture.copy()  # in its own mode: the evaluators know how to make RGB of 16 bits
    except (OSError, SyntaxError) as error:  # PIL reports a broken PNG chunk as a SyntaxError
        raise UserError(f"{path} is damaged ({error}); delete it and add generate to stages to make it again") from None


def _encode(evaluator: Evaluator, prompts: Sequence[str], batch_size: int) -> Any:
    starts = range(0, len(prompts), batch_size)
    parts = [evaluator.encode_prompts(prompts[start : start + batch_size]) for start in starts]
    if parts and isinstance(parts[0], Tensor):
        return torch.cat([part for part in parts if isinstance(part, Tensor)])
    return [entry for part in parts for entry in part]


def _take(encoded: Tensor | list[Any], rows: Sequence[int]) -> Any:
    return encoded[torch.tensor(rows)] if isinstance(encoded, Tensor) else [encoded[row] for row in rows]


def _ahead(function: Callable[[T], R], items: Sequence[T], num_processes: int) -> Iterator[R]:
    """Yield `function(item)` of each item in order; threads work a few items ahead of the network."""
    num_threads = max(1, min(8, (os.cpu_count() or 1) // num_processes))
    with ThreadPoolExecutor(num_threads) as pool:
        futures = deque(pool.submit(function, item) for item in items[: num_threads + 1])
        for item in items[num_threads + 1 :]:
            result = futures.popleft().result()
            futures.append(pool.submit(function, item))
            yield result
        while futures:
            yield futures.popleft().result()
