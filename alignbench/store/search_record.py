"""What searches tried: the table of trials in each folder of `results/searches`, which the report counts."""

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignbench.errors import UserError
from alignbench.files import write_csv
from alignbench.reading import read_bytes

TRIALS = "trials.csv"
FIXED = ("trial", "state", "run", "model", "method", "recipe", "seconds", "reason")
REMEDY = "repeat the command of its search, which writes it again"


def searches_folder(results: Path) -> Path:
    """Return the folder of all searches of a results folder."""
    return Path(results) / "searches"


def write_trials(folder: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the table of trials of one search.

    Args:
        columns: those of the objectives and settings, which follow `FIXED`.
    """
    write_csv(folder / TRIALS, (*FIXED, *columns), rows)


def count_tried(results: Path) -> tuple[dict[tuple[str, str], int], dict[str, str]]:
    """Return how many settings of each method searches tried, and why tables could not be read.

    Returns:
        (model, method) -> number of different recipes; and path of a search in the results -> sentence.
    """
    recipes: dict[tuple[str, str], set[str]] = defaultdict(set)
    damaged = {}
    for file in sorted(searches_folder(results).glob(f"*/{TRIALS}")):
        try:
            for row in _rows(file):
                if row["recipe"]:
                    recipes[row["model"], row["method"]].add(row["recipe"])
        except UserError as error:
            damaged[file.parent.relative_to(results).as_posix()] = str(error)
    return {key: len(found) for key, found in recipes.items()}, damaged


def _rows(file: Path) -> list[dict[str, str]]:
    try:
        rows = list(csv.DictReader(read_bytes(file, REMEDY).decode().splitlines(), strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{file} is damaged ({error}); {REMEDY}") from None
    if any(None in row or None in row.values() or not {"model", "method", "recipe"} <= row.keys() for row in rows):
        raise UserError(f"{file} is damaged (a row has other columns); {REMEDY}")
    return rows
