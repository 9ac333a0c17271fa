"""What a sweep is to be: its cells, written to `results/sweeps/NAME.json` before the first one starts.

So a table of a sweep that was stopped names what is missing, in any shell that sees the folder.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field

from alignbench.errors import UserError
from alignbench.files import CHECK, is_intact, with_check, without_check, write_json
from alignbench.reading import check_record, is_file_name, read_json_object

FOLDER = "sweeps"
NAME_LENGTH = 40  # letters of a cell's or a sweep's words in the name of a file
RESTORE = "put it back, or repeat the command of the sweep, which writes it again"
StoredCount = Annotated[int, Field(ge=0, lt=2**63)]  # JSON has larger ones, which no float holds


@dataclass(frozen=True)
class Cell:
    """One job of a sweep.

    Attributes:
        name: the words by which it differs from the others, as people read it.
        slug: the same as the name of its files and of its job in a queue.
        words: those of the command that runs it alone.
        run: name of its run folder; empty where its images exist already.
        updates: that its training makes at most; 0 if it trains nothing.
        is_base: whether it only makes the images and scores of the base run that the others are compared with.
    """

    name: str
    slug: str
    words: list[str]
    run: str
    updates: StoredCount
    is_base: bool = False


@dataclass(frozen=True)
class Sweep:
    """A sweep and its cells.

    Attributes:
        name: of its file and of the folder of its states and logs: the same for the same cells.
        command: the words after `python -m alignbench`, as typed.
        launcher: who runs its cells; `basic` for one after the other in one process.
        folder: the working folder of the command, which relative paths in its words start from.
        started: when the command began, UTC.
        cells: bases first.
        signed: shows that this user typed the command; see `alignbench.sweeps.ownership`.
    """

    name: str
    command: list[str]
    launcher: str
    folder: str
    started: str
    cells: list[Cell]
    signed: str = ""

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read what `write` wrote.

        Raises:
            UserError: it is missing, damaged or not a record of a sweep.
        """
        values = read_json_object(file, RESTORE)
        if CHECK not in values or not is_intact(values):
            raise UserError(f"{file} has changed since it was written; {RESTORE}")
        values = without_check(values)
        check_record(cls, values, str(file), RESTORE)
        found = cls(**{**values, "cells": [Cell(**cell) for cell in values["cells"]]})
        slugs = [cell.slug for cell in found.cells]
        names = [*slugs, *(cell.run for cell in found.cells if cell.run)]
        is_own = found.name == file.stem and all(slug == file_name(slug) for slug in slugs)
        if not is_own or len(set(slugs)) < len(slugs) or not all(map(is_file_name, names)):
            raise UserError(f"{file} names files that are not its own; {RESTORE}")
        return found

    def write(self, results: Path) -> Path:
        """Write the record atomically; return its file."""
        file = results / FOLDER / f"{self.name}.json"
        write_json(file, with_check(asdict(self)))
        return file


def cells_of(jobs: Sequence[tuple[str, list[str], str, int]]) -> list[Cell]:
    """Return the cells of jobs, each given as what it differs by, its words, the name of its run and its updates."""
    digits = len(str(len(jobs)))
    slugs = [f"{number:0{digits}}-{_values(told)}".rstrip("-") for number, (told, *_) in enumerate(jobs, start=1)]
    return [
        Cell(told or run, slug, words, run, updates)
        for slug, (told, words, run, updates) in zip(slugs, jobs, strict=True)
    ]


def sweep_name(cells: Sequence[Cell]) -> str:
    """Return the name of a sweep: its first words for people, and a hash of the words of all its cells."""
    others = [cell for cell in cells if not cell.is_base]
    digest = hashlib.sha256(json.dumps([cell.words for cell in others]).encode()).hexdigest()[:8]
    values: dict[str, list[str]] = {}  # of each key that is swept over
    for word in (word for cell in others for word in cell.name.split()):
        key, _, value = word.partition("=")
        if value not in values.setdefault(key, []):
            values[key].append(value)
    swept = " ".join(f"{key}={'_'.join(found)}" for key, found in values.items())
    return file_name(f"{_values(swept)}-{digest}")


def file_name(text: str) -> str:
    """Return a text as the name of a file: letters, digits, dots, dashes and underscores, none of them first a dot."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).lstrip(".")


def _values(told: str) -> str:
    """Return `key=value` words as part of a file's name: `method=sft seed=0` as `sft-seed0`."""
    return file_name("-".join(map(_value, told.split())))[:NAME_LENGTH].strip("-.")


def _value(word: str) -> str:
    key, _, value = word.partition("=")
    return value if value[:1].isalpha() else key.rpartition(".")[2] + value


def sweep_files(results: Path) -> list[Path]:
    """Return the records of all sweeps of a results folder, sorted by name."""
    return sorted((results / FOLDER).glob("*.json"))


def read_sweeps(results: Path) -> tuple[list[Sweep], list[str]]:
    """Return all sweeps of a results folder in the order in which they began, and why others cannot be read."""
    found: list[Sweep] = []
    damaged: list[str] = []
    for file in sweep_files(results):
        try:
            found.append(Sweep.read(file))
        except UserError as error:
            damaged.append(str(error))
    return sorted(found, key=lambda sweep: (sweep.started, sweep.name)), damaged
