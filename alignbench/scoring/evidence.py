"""What scores were made of, one line an image, in a file beside the partial scores of an evaluator."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import FiniteFloat

from alignbench.reading import check_record, read_json_lines
from alignbench.store.scores import Scores

BORDERLINE = 0.02  # how far a score or probability of a detector may move between two machines

REMEDY = "delete it, and the table of scores beside its folder, to score again"


@dataclass(frozen=True)
class Margin:
    """What is read of a line: by how much a number would have to move to change the score of an image."""

    prompt_id: str
    image: int
    digest: str
    margin: FiniteFloat


def evidence_file(scores: Path) -> Path:
    """Return the file of evidence of a table of scores.

    Lines of images that were scored again follow those of the first time; `digest` tells which image a line is about.
    """
    return scores.parent / "parts" / f"{scores.stem}.evidence.jsonl"


def borderline_share(path: Path, scores: Scores) -> float | None:
    """Return the share of images whose score another machine could change; None where there is no evidence of it.

    Args:
        path: of the table of scores.
        scores: what is in it.

    Raises:
        UserError: the evidence is damaged.
    """
    file = evidence_file(path)
    if not file.exists():
        return None
    margins: dict[tuple[str, int, str], float] = {}
    for number, line in enumerate(read_json_lines(file, REMEDY), start=1):
        if "margin" in line:
            read = {name: line.get(name) for name in Margin.__annotations__}
            check_record(Margin, read, f"line {number} of {file}", REMEDY)
            key = (line["prompt_id"], line["image"], line["digest"])
            margins[key] = min(line["margin"], margins.get(key, np.inf))  # of the frames of a video, the nearest
    keys = zip(scores.prompt_id.tolist(), scores.image.tolist(), scores.digest.tolist(), strict=True)
    known = [margins[key] for key in keys if key in margins]
    return float(np.mean(np.array(known) < BORDERLINE)) if known else None
