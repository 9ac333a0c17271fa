"""What evaluators and comparers say of images that people judged; what is known already is not asked again."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm.auto import tqdm

from alignbench.card.human.records import Pairs, Picture, Record, digest, picture
from alignbench.errors import UserError
from alignbench.evaluator import Evaluator, Preprocess
from alignbench.pairwise.comparer import Comparer, Verdict
from alignbench.pairwise.orders import JudgedPair
from alignbench.pairwise.tournament import standings
from alignbench.scoring.network_pool import NetworkPool
from alignbench.scoring.score import info
from alignbench.store.cards import CARDS
from alignbench.store.manifest import ResultsError
from alignbench.store.scores import Scores, digest_of, digest_of_content
from alignbench.store.verdicts import Judged, VerdictFile, call_key
from alignbench.terminal.endings import is_main
from alignbench.text import keyed

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """The scores of one evaluator on the images of one data set.

    Attributes:
        scores: of each record, [N], the higher the better, whatever the evaluator's own direction.
        seconds: of an image, its preprocessing included, when the network is loaded.
    """

    scores: list[Floats]
    seconds: float

    def margins(self, pairs: Pairs) -> Floats:
        """Return first image minus second, [P]."""
        found = np.zeros(len(pairs.record))
        for number, scores in enumerate(self.scores):
            mine = pairs.record == number
            found[mine] = scores[pairs.first[mine]] - scores[pairs.second[mine]]
        return found


def scored(
    evaluators: Sequence[Evaluator],
    data: str,
    records: Sequence[Record],
    root: Path,
    batch_size: int,
    pool: NetworkPool,
) -> dict[str, Scored]:
    """Score all images of records with each evaluator; return the scores by `<name>@<version>`.

    Scores are kept in results/cards/scores/<data>-<digest>, with the digest of each image.

    Raises:
        UserError: an evaluator cannot score the prompts, or an image cannot be read.
    """
    prompts = list(dict.fromkeys(record.prompt for record in records))
    for evaluator in evaluators:
        if reason := evaluator.supports(prompts):
            raise UserError(f"human_pairs={data} cannot be judged: {reason}")
    folder = Path(root) / CARDS / "scores" / f"{data}-{digest(records)}"
    keys = [(number, image) for number, record in enumerate(records) for image in range(len(record.images))]
    digests = [image_digest(records[number].images[image]) for number, image in keys]
    found: dict[str, list[Floats]] = {}
    asked: list[Evaluator] = []
    for evaluator in evaluators:
        values = _known(folder, evaluator, keys, digests)
        if values is None:
            asked.append(evaluator)
        else:
            found[_key(evaluator)] = _by_record(evaluator, keys, values)
    for evaluator, values in zip(asked, _score(asked, records, keys, batch_size, pool, data), strict=True):
        ids = [_id(number) for number, _ in keys]
        table = Scores.of(info(evaluator), ids, [image for _, image in keys], values, digests)
        table.write(folder / f"{_key(evaluator)}.parquet")
        found[_key(evaluator)] = _by_record(evaluator, keys, table.score)
    return {
        _key(evaluator): Scored(found[_key(evaluator)], _seconds(evaluator, records, keys[:batch_size], pool))
        for evaluator in evaluators
    }


def _key(evaluator: Evaluator | Comparer) -> str:
    return f"{evaluator.name}@{evaluator.version}"


def _id(record: int) -> str:
    return f"{record:06d}"


def _known(
    folder: Path, evaluator: Evaluator, keys: Sequence[tuple[int, int]], digests: Sequence[str]
) -> NDArray[np.float32] | None:
    """Return the scores of all images, in the order of `keys`, where they were kept for the same images and weights."""
    file = folder / f"{_key(evaluator)}.parquet"
    if not file.exists():
        return None
    table = Scores.read(file)
    same = (
        table.info == info(evaluator)
        and table.prompt_id.tolist() == [_id(number) for number, _ in keys]
        and table.image.tolist() == [image for _, image in keys]
        and table.digest.tolist() == list(digests)
    )
    return table.score if same else None


def _by_record(evaluator: Evaluator, keys: Sequence[tuple[int, int]], values: NDArray[np.float32]) -> list[Floats]:
    sign = 1.0 if evaluator.higher_is_better else -1.0
    found: dict[int, list[float]] = {}
    for (number, _), value in zip(keys, values.tolist(), strict=True):
        found.setdefault(number, []).append(sign * value)
    return [np.array(scores) for scores in found.values()]


@torch.no_grad()
def _score(
    evaluators: Sequence[Evaluator],
    records: Sequence[Record],
    keys: Sequence[tuple[int, int]],
    batch_size: int,
    pool: NetworkPool,
    data: str,
) -> list[NDArray[np.float32]]:
    """Return the scores of all images by each evaluator."""
    values: list[list[float]] = [[] for _ in evaluators]
    with progress(f"score {data}", len(keys) if evaluators else 0, "image") as bar:
        for start in range(0, len(keys) if evaluators else 0, batch_size):
            batch = keys[start : start + batch_size]
            pictures, prompts = _pictures(records, batch)
            for place, given in enumerate(scores_of(evaluators, pictures, prompts, pool)):
                values[place] += given
            bar.update(len(batch))
    return [np.array(of, np.float32) for of in values]


def scores_of(
    evaluators: Sequence[Evaluator], pictures: Sequence[Image.Image], prompts: Sequence[str], pool: NetworkPool
) -> list[list[float]]:
    """Return the scores of a batch by each evaluator; equal inputs are made once."""
    inputs: dict[Preprocess, Any] = {}
    found = []
    for evaluator in evaluators:
        pool.use(evaluator)
        if evaluator.preprocess not in inputs:
            inputs[evaluator.preprocess] = evaluator.preprocess(pictures)
        scores = evaluator.score_inputs(inputs[evaluator.preprocess], evaluator.encode_prompts(list(prompts)))
        found.append(scores.float().cpu().tolist())
    return found


@torch.no_grad()
def _seconds(
    evaluator: Evaluator, records: Sequence[Record], batch: Sequence[tuple[int, int]], pool: NetworkPool
) -> float:
    """Return how long an image of a batch takes; the first pass, which loads what is needed, is not counted."""
    pictures, prompts = _pictures(records, batch)
    scores_of([evaluator], pictures[:1], prompts[:1], pool)
    start = time.perf_counter()
    scores_of([evaluator], pictures, prompts, pool)
    return (time.perf_counter() - start) / len(batch)


def _pictures(records: Sequence[Record], batch: Sequence[tuple[int, int]]) -> tuple[list[Image.Image], list[str]]:
    pictures = [picture(records[number].images[image]) for number, image in batch]
    return pictures, [records[number].prompt for number, _ in batch]


def progress(what: str, total: int, unit: str) -> tqdm:
    """Return a bar that is shown while something is counted, and gone afterwards."""
    return tqdm(total=total, desc=what, unit=unit, delay=1, dynamic_ncols=True, leave=False, disable=not is_main())


def image_digest(image: Picture) -> str:
    """Return the digest of an image file; of a rendered image that of its PNG file."""
    if isinstance(image, Path):
        return digest_of(image)
    if isinstance(image, bytes):
        return digest_of_content(image)
    content = BytesIO()
    image.save(content, format="PNG")
    return digest_of_content(content.getvalue())


# ---- comparers


def drawn_pairs(records: Sequence[Record], pairs: Pairs, num: int) -> Pairs:
    """Return some of the pairs, drawn by prompt and number; a larger number keeps those of a smaller one."""
    if num >= len(pairs.record):
        return pairs
    columns = zip(pairs.record.tolist(), pairs.first.tolist(), pairs.second.tolist(), strict=True)
    order = [keyed(records[record].prompt, first, second) for record, first, second in columns]
    kept = np.sort(np.array(sorted(range(len(order)), key=order.__getitem__)[:num], dtype=np.intp))
    return pairs.some(kept)


def judged_pairs(
    comparer: Comparer, data: str, records: Sequence[Record], pairs: Pairs, root: Path
) -> tuple[list[JudgedPair], float]:
    """Show pairs to a comparer in both orders; return what it said of each, and the seconds of a call.

    Verdicts are kept in results/cards/comparisons, so a repeated command asks nothing.

    Raises:
        UserError: the comparer cannot judge the prompts, or fails altogether.
    """
    if reason := comparer.supports(list(dict.fromkeys(records[number].prompt for number in pairs.record))):
        raise UserError(f"human_pairs={data} cannot be judged: {reason}")
    file = VerdictFile.of(Path(root) / CARDS, data, digest(records), comparer.name, comparer.version)
    digests = [[image_digest(image) for image in record.images] for record in records]
    known = {line.call: line.verdict for line in file.read() if line.identity == comparer.identity}
    calls = [
        (record, first, second, a_first)
        for record, first, second in zip(
            pairs.record.tolist(), pairs.first.tolist(), pairs.second.tolist(), strict=True
        )
        for a_first in (True, False)
    ]

    def key(call: tuple[int, int, int, bool]) -> tuple[str, str, str]:
        record, first, second, a_first = call
        return call_key(digests[record][first], digests[record][second], a_first, records[record].prompt)

    lacking = [call for call in dict.fromkeys(calls) if key(call) not in known]
    with progress(f"{comparer.name} on {data}", len(lacking), "call") as bar:
        for start in range(0, len(lacking), comparer.batch_size):
            batch = lacking[start : start + comparer.batch_size]
            verdicts = _ask(comparer, records, batch)
            lines = []
            for (record, first, second, a_first), verdict in zip(batch, verdicts, strict=True):
                known[key((record, first, second, a_first))] = verdict
                lines.append(
                    Judged(
                        _id(record),
                        records[record].prompt,
                        0,
                        str(first),
                        str(second),
                        digests[record][first],
                        digests[record][second],
                        a_first,
                        comparer.identity,
                        verdict,
                    )
                )
            file.add(lines)
            bar.update(len(batch))
    found = [
        JudgedPair(records[one[0]].prompt, known[key(one)], known[key(other)])
        for one, other in zip(calls[::2], calls[1::2], strict=True)
    ]
    all_seconds = [verdict.seconds for pair in found for verdict in pair.verdicts]
    return found, float(np.mean(all_seconds)) if all_seconds else 0.0


def tournament_scores(
    comparer: Comparer, data: str, records: Sequence[Record], num_prompts: int, root: Path
) -> tuple[list[int], list[Floats]]:
    """Let all images of some records meet in both orders; return their numbers, and the win share of each image, [N].

    Records are drawn by their prompts; a larger number keeps those of a smaller one.

    Raises:
        UserError: as `judged_pairs`.
    """
    order = sorted(range(len(records)), key=lambda number: keyed(records[number].prompt, "tournament"))
    chosen = sorted(order[:num_prompts])
    pairs = Pairs.of(records)
    pairs = pairs.some(np.isin(pairs.record, chosen))
    judged, _ = judged_pairs(comparer, data, records, pairs, root)
    found = []
    for number in chosen:
        mine = np.flatnonzero(pairs.record == number)
        met = list(zip(pairs.first[mine].tolist(), pairs.second[mine].tolist(), strict=True))
        found.append(standings(met, [judged[pair] for pair in mine], len(records[number].images), "win_share"))
    return chosen, found


def _ask(comparer: Comparer, records: Sequence[Record], batch: Sequence[tuple[int, int, int, bool]]) -> list[Verdict]:
    shown = [(first, second) if a_first else (second, first) for _, first, second, a_first in batch]
    needed = {(call[0], image): None for call, both in zip(batch, shown, strict=True) for image in both}
    pictures = comparer.preprocess([picture(records[record].images[image]) for record, image in needed])
    prepared: Mapping[tuple[int, int], object] = dict(zip(needed, pictures, strict=True))
    start = time.perf_counter()
    verdicts = comparer.compare(
        [prepared[call[0], one] for call, (one, _) in zip(batch, shown, strict=True)],
        [prepared[call[0], other] for call, (_, other) in zip(batch, shown, strict=True)],
        [records[call[0]].prompt for call in batch],
    )
    if len(verdicts) != len(batch):
        raise ResultsError(f"{comparer.name} gave {len(verdicts)} verdicts on {len(batch)} pairs; expected one each")
    if any(verdict.seconds for verdict in verdicts):
        return verdicts
    each = (time.perf_counter() - start) / len(batch)
    return [Verdict(**{**vars(verdict), "seconds": each}) for verdict in verdicts]


def margins_of(judged: Sequence[JudgedPair]) -> Floats:
    """Return how far a comparer prefers the first image of each pair, in log-odds if it has them; NaN: it failed."""
    found = []
    for pair in judged:
        if pair.won is None:
            found.append(float("nan"))
        else:
            found.append(pair.won - 0.5 if pair.quality is None else pair.quality)
    return np.array(found)
