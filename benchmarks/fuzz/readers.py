"""All readers of outside input, and their files with damage."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.fuzz.files_of_commands import of_commands
from benchmarks.fuzz.files_of_judges import of_judges
from benchmarks.fuzz.files_of_runs import of_runs, of_studies
from benchmarks.fuzz.files_of_users import pictures, tables, texts, weights
from benchmarks.fuzz.mutations import mutated
from benchmarks.fuzz.reader import Reader


def readers() -> list[Reader]:
    """Return all readers, those of users' files first."""
    return [*texts(), *tables(), *pictures(), *weights(), *of_runs(), *of_studies(), *of_commands(), *of_judges()]


def changed_file(reader: Reader, place: Path, seed: int) -> Callable[[int], Callable[[], Any]]:
    """Return what reads the changed file of each number."""
    folder = place / reader.name.replace(" ", "_").replace("/", "_")
    folder.mkdir(exist_ok=True)
    reader.make(folder)
    file = folder / reader.file
    original = file.read_bytes()
    reader.read(folder)  # what is valid is read

    def attempt(number: int) -> Callable[[], Any]:
        draw = random.Random(f"{seed}/{reader.name}/{number}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(mutated(original, draw))
        return lambda: reader.read(folder)

    return attempt
