"""Read what a run logged while it trained, and what the looks at it said."""

import csv
from pathlib import Path

from alignbench.reading import read_json_lines

Curve = list[tuple[int, float]]  # optimizer step and figure, in the order of the steps


def read_curves(train_log: Path) -> dict[str, Curve]:
    """Return the curve of each figure in `train.jsonl`, losses first.

    A step that a resumed run made and logged again counts as it was logged last.
    """
    records = read_json_lines(train_log)
    names = {name for record in records for name, value in record.items() if isinstance(value, int | float)} - {"step"}
    ordered = sorted(names, key=lambda name: ("loss" not in name, not name.startswith("train/"), name))
    return {
        name: sorted({r["step"]: r[name] for r in records if isinstance(r.get(name), int | float)}.items())
        for name in ordered
    }


def read_validation(table: Path) -> dict[str, list[tuple[int, float, float, float]]]:
    """Return each evaluator's win rate over the start in %, from `validation.csv`: step, value and 95 % interval."""
    with Path(table).open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        name: [
            (int(row["step"]), 100 * float(row["win_rate"]), 100 * float(row["ci_low"]), 100 * float(row["ci_high"]))
            for row in rows
            if row["evaluator"] == name
        ]
        for name in dict.fromkeys(row["evaluator"] for row in rows)
    }
