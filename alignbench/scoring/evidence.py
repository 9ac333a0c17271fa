"""What scores were made of, one line an image or frame, in a file beside the partial scores of an evaluator."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, FiniteFloat

from alignbench.files import CHECK, append_json_lines, is_intact, with_check, without_check
from alignbench.reading import check_record, read_json_lines
from alignbench.store.image_records import ImageKey
from alignbench.store.manifest import ResultsError
from alignbench.store.scores import Scores

Evidence = Mapping[str, Any]  # what an evaluator says of one image or frame; JSON

BORDERLINE = 0.02  # how far a score or probability of a detector may move between two machines

REMEDY = "delete it, and the table of scores beside its folder, to score again"


@dataclass(frozen=True)
class _About:
    """Which image a line is about, and by how much a number would have to move to change its score."""

    prompt_id: str
    image: Annotated[int, Field(ge=0, lt=2**31)]
    digest: str
    margin: FiniteFloat | None = None


TAKEN = ("prompt_id", "image", "digest", CHECK)  # keys of a line that are not the evaluator's


@dataclass(frozen=True)
class CountedQuestion:
    """What is read of a question about an image: its kind, and what its answer counts."""

    category: str
    counted: FiniteFloat


@dataclass(frozen=True)
class Counted:
    """What the answers about the images of a prompt count, and how many questions there were."""

    total: float = 0.0
    num: int = 0


def evidence_file(scores: Path) -> Path:
    """Return the file of evidence of a table of scores.

    Lines of images that were scored again follow those of the first time; `digest` tells which image a line is about.
    """
    return scores.parent / "parts" / f"{scores.stem}.evidence.jsonl"


def add_evidence(scores: Path, keys: Sequence[ImageKey], digests: Sequence[str], evidence: Sequence[Evidence]) -> None:
    """Keep what the scores of some images were made of; only one process at a time may do so.

    Args:
        scores: path of the table of scores.
        digests: of the image files.

    Raises:
        ResultsError: an evaluator calls something as a line calls the image itself.
    """
    for key in TAKEN:
        if any(key in one for one in evidence):
            raise ResultsError(
                f"{scores.stem} explains its scores by {key!r}, which names the image; call it otherwise"
            )
    rows = (
        {"prompt_id": prompt_id, "image": number, "digest": digest, **one}
        for (prompt_id, number), digest, one in zip(keys, digests, evidence, strict=True)
    )
    append_json_lines(evidence_file(scores), map(with_check, rows))


def read_evidence(path: Path, scores: Scores, num_frames: int = 1) -> dict[ImageKey, list[Evidence]]:
    """Return what is known of how scores came about, by image: one object, for a video one for each frame.

    Args:
        path: of the table of scores.
        scores: what is in it; of other image files nothing is returned.

    Raises:
        ResultsError: the evidence has changed since it was written.
        UserError: it cannot be read.
    """
    file = evidence_file(path)
    if not file.exists():
        return {}
    shown = zip(scores.prompt_id.tolist(), scores.image.tolist(), scores.digest.tolist(), strict=True)
    found: dict[tuple[str, int, str], list[Evidence]] = {one: [] for one in shown}
    for number, line in enumerate(read_json_lines(file, REMEDY), start=1):
        if CHECK not in line or not is_intact(line):
            raise ResultsError(f"line {number} of {file} has changed since it was written; {REMEDY}")
        about = {name: line[name] for name in _About.__annotations__ if name in line}
        check_record(_About, about, f"line {number} of {file}", REMEDY)
        if (key := (line["prompt_id"], line["image"], line["digest"])) in found:
            found[key].append({name: value for name, value in without_check(line).items() if name not in TAKEN})
    # a kill between evidence and scores lets an image be scored again: what came last is right
    return {(prompt_id, number): lines[-num_frames:] for (prompt_id, number, _), lines in found.items() if lines}


def borderline_share(evidence: Mapping[ImageKey, Iterable[Evidence]]) -> float | None:
    """Return the share of images whose score another machine could change; None where there is no evidence of it."""
    margins: dict[ImageKey, list[float]] = defaultdict(list)
    for image, lines in evidence.items():
        margins[image] += [line["margin"] for line in lines if line.get("margin") is not None]
    nearest = [min(each) for each in margins.values() if each]  # of the frames of a video
    return float(np.mean(np.array(nearest) < BORDERLINE)) if nearest else None


def category_totals(evidence: Mapping[ImageKey, Iterable[Evidence]]) -> Mapping[str, Mapping[str, Counted]]:
    """Return what questions of each category count, by prompt id; nothing where evidence has no categories.

    Raises:
        ResultsError: a question is not as an evaluator writes it.
    """
    found: defaultdict[str, dict[str, Counted]] = defaultdict(dict)
    for (prompt_id, number), lines in evidence.items():
        for question in (one for line in lines for one in _with_category(line, f"image {number} of {prompt_id}")):
            before = found[question.category].get(prompt_id, Counted())
            found[question.category][prompt_id] = Counted(before.total + question.counted, before.num + 1)
    return found


def _with_category(line: Evidence, image: str) -> Iterator[CountedQuestion]:
    """Yield the questions about an image that have a category."""
    questions = line.get("questions", [])
    named = f"the evidence of {image}"
    if not isinstance(questions, list) or not all(isinstance(one, dict) for one in questions):
        raise ResultsError(f"{named} has no list of questions; {REMEDY}")
    for one in questions:
        if one.get("category"):
            told = {name: one.get(name) for name in CountedQuestion.__annotations__}
            check_record(CountedQuestion, told, named, REMEDY)
            yield CountedQuestion(**told)
