"""Read what a run logged while it trained, and what the looks at it said."""

import csv
from pathlib import Path
from typing import Any

from alignbench.errors import UserError
from alignbench.files import CHECK, is_intact, without_check
from alignbench.reading import read_bytes, read_json_lines, read_json_object
from alignbench.store.run_folder import RunFolder, checked

TRAIN_AGAIN = "put the right file back, or delete the run folder and repeat its command"
DELETE = "delete it"

Curve = list[tuple[int, float]]  # optimizer step and figure, in the order of the steps


def read_profile(folder: RunFolder) -> dict[str, Any] | None:
    """Return what `profile=true` wrote of a run's updates, see `alignbench.training.profiling`; None if it was not on.

    Raises:
        UserError: the file is damaged.
    """
    file = folder.profile_figures
    if not file.exists():
        return None
    found = read_json_object(file, DELETE)
    if CHECK not in found or not is_intact(found):
        raise UserError(f"{file} has changed since it was written; {DELETE}")
    return without_check(found)


def read_curves(train_log: Path) -> dict[str, Curve]:
    """Return the curve of each figure in `train.jsonl`, losses first.

    A step that a resumed run made and logged again counts as it was logged last.
    """
    records = read_json_lines(checked(train_log), TRAIN_AGAIN)
    for number, record in enumerate(records, start=1):
        if not isinstance(record.get("step"), int):
            raise UserError(f"line {number} of {train_log} has no step; {TRAIN_AGAIN}")
    names = {name for record in records for name, value in record.items() if isinstance(value, int | float)} - {"step"}
    ordered = sorted(names, key=lambda name: ("loss" not in name, not name.startswith("train/"), name))
    return {
        name: sorted({r["step"]: r[name] for r in records if isinstance(r.get(name), int | float)}.items())
        for name in ordered
    }


def read_validation(table: Path) -> dict[str, list[tuple[int, float, float, float]]]:
    """Return each evaluator's win rate over the start in %, from `validation.csv`: step, value and 95 % interval."""
    rows = read_validation_rows(table)
    return {
        name: [
            (int(row["step"]), *(100 * row[column] for column in ("win_rate", "ci_low", "ci_high")))
            for row in rows
            if row["evaluator"] == name
        ]
        for name in dict.fromkeys(row["evaluator"] for row in rows)
    }


def read_validation_rows(table: Path) -> list[dict[str, Any]]:
    """Return the rows of `validation.csv`: numbers but for the evaluator, `network_passes` None where it has none.

    Raises:
        UserError: it is not as its run wrote it, or no such table.
    """
    text = read_bytes(checked(table), TRAIN_AGAIN)
    try:
        rows: list[dict[str, Any]] = list(csv.DictReader(text.decode().splitlines(), strict=True))
        for row in rows:
            passes = row.get("network_passes")
            row.update({name: float(row[name]) for name in ("step", "win_rate", "ci_low", "ci_high")})
            row.update(network_passes=float(passes) if passes else None, evaluator=str(row["evaluator"]))
            int(row["step"])
    except (csv.Error, ValueError, KeyError, TypeError, OverflowError):
        raise UserError(f"{table} is damaged; {TRAIN_AGAIN}") from None
    return rows
