"""The printed figures of papers in the tables of this folder."""

import csv
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from alignbench.store.manifest import ResultsError

NAMES = ("paper", "arxiv_id", "table", "model", "method", "evaluator")  # never empty
FOLDER = Path(__file__).resolve().parent
STATISTICS = ("median", "mean", "win_rate", "share")


@dataclass(frozen=True)
class PublishedValue:
    """One printed figure; the columns are explained in `README.md` beside this module.

    Attributes:
        value: as printed, `scale` times the evaluator's own scale.
        guidance_scale: None where the source does not say.
    """

    paper: str
    arxiv_id: str
    table: str
    model: str
    method: str
    variant: str
    opponent: str
    prompt_set: str
    evaluator: str
    evaluator_version: str
    statistic: str
    value: float
    scale: float
    start: str
    guidance_scale: float | None
    noise: str
    obstacle: str


def load(folder: Path = FOLDER) -> list[PublishedValue]:
    """Read all tables of a folder, in the order of their names.

    Raises:
        ResultsError: when a table has other columns, or a cell that cannot be what its column says.
    """
    columns = [entry.name for entry in fields(PublishedValue)]
    rows = []
    for file in sorted(Path(folder).glob("*.csv")):
        with file.open(encoding="utf-8", newline="") as lines:
            reader = csv.DictReader(lines, restval="")
            if reader.fieldnames != columns:
                raise ResultsError(f"{file} has the columns {reader.fieldnames}, expected {columns}")
            rows += [_parsed(row, f"{file}, line {reader.line_num}") for row in reader]
    return rows


def _parsed(row: dict[str, str], location: str) -> PublishedValue:
    problems = [f"{name} is empty" for name in NAMES if not row[name]]
    if row["statistic"] not in STATISTICS:
        problems.append(f"statistic is {row['statistic']!r}, expected one of {', '.join(STATISTICS)}")
    if row["noise"] not in ("", "constant", "per_prompt"):
        problems.append(f"noise is {row['noise']!r}, expected constant, per_prompt or nothing")
    if (row["statistic"] == "win_rate") != bool(row["opponent"]):
        problems.append("a win rate needs an opponent, and nothing else has one")
    if not (row["prompt_set"] or row["obstacle"]):
        problems.append("prompt_set is empty; say under obstacle why")
    values: dict[str, Any] = dict(row)
    for name in ("value", "scale", "guidance_scale"):
        try:
            values[name] = float(row[name]) if row[name] or name != "guidance_scale" else None
        except ValueError:
            problems.append(f"{name} is {row[name]!r}, expected a number")
    if values["scale"] not in (1.0, 100.0):
        problems.append(f"scale is {row['scale']}, expected 1 or 100")
    if problems:
        raise ResultsError(f"{location}: {'; '.join(problems)}")
    return PublishedValue(**values)
