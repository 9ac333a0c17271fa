"""The command of the main program that runs a row: its words, and what the user has yet to give."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from alignbench.errors import UserError
from alignbench.reproduce.rows import Row, read_rows

POLICY = "model.policy"


def words_of(row: Row, given: Sequence[str]) -> list[str]:
    """Return the words of the command that runs a row.

    Args:
        given: what the user adds, as `data.path=FOLDER`.

    Raises:
        UserError: the user has yet to give something, or a word is no setting.
    """
    for word in given:
        if "=" not in word or word.startswith("-"):
            raise UserError(f"{word} is not understood; behind the row expected key=value, as in results=FOLDER")
    if lacking := [told for key, told in lacks(row, given)]:
        raise UserError("; ".join(lacking))
    words = [*row.command, *given]
    if row.starts_from is not None and not _is_given(POLICY, given):
        from alignbench.configuration.typed.words import results_of

        words.append(f"{POLICY}={_start(row, row.starts_from, results_of(given))}")
    return words


def lacks(row: Row, given: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each key that a row needs and the user has not given, with a sentence that says what to put there."""
    for key, what in row.needs.items():
        if not _is_given(key, given):
            yield key, f"{row.id} needs {what}: add {key}=PATH"


def _is_given(key: str, words: Sequence[str]) -> bool:
    return any(word.startswith(f"{key}=") for word in words)


def _start(row: Row, start: str, results: Path) -> Path:
    """Return the run whose weights a row starts from.

    Raises:
        UserError: the results folder has none whose training is complete.
    """
    from alignbench.reproduce.finished import find_run
    from alignbench.store.run_folder import readable_manifests

    trained = [run for run, _ in readable_manifests(results) if run.completed("train")]
    found = find_run(read_rows()[start], trained)
    if found is None or found.differences:
        raise UserError(
            f"{row.id} starts from the weights of the row {start}, which {results} does not hold; make them first by "
            f"python -m alignbench.reproduce {start}, or give others by {POLICY}=FOLDER"
        )
    return found.run.path


def as_typed(words: Sequence[str]) -> str:
    """Return a command as it is typed in a shell."""
    return shlex.join(["python", "-m", "alignbench", *words])
