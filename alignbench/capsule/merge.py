"""Bring the runs of capsules into a results folder, each whole or not at all."""

import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

from alignbench.capsule.check import unpack
from alignbench.capsule.conflicts import Found, check_evaluators, joined
from alignbench.errors import UserError
from alignbench.files import flush_files, locked
from alignbench.report.write import write_report
from alignbench.store.run_folder import RunFolder

STAGING = ".merging"  # folder in the results; nothing in it is read as results


def merge(files: Sequence[Path], results: Path) -> None:
    """Bring the runs of capsules into a results folder, and write its tables and its page.

    All capsules are checked before the first run is brought in. Runs that are there already stay as they are.

    Raises:
        UserError: a capsule is damaged, or a run is there with other content; then nothing is brought in.
    """
    if results.exists() and not results.is_dir():
        raise UserError(f"{results} is a file; give a results folder as the last word")
    if RunFolder(results).manifest_file.exists():
        raise UserError(f"{results} is one run; give the results folder, here {results.resolve().parent}")
    with locked(results / STAGING / ".lock"):
        for left in (results / STAGING).iterdir():  # of a merge that was ended
            if left.is_dir():
                shutil.rmtree(left)
        staging = results / STAGING / secrets.token_hex(6)
        try:
            found = [_unpacked(file, staging / str(number)) for number, file in enumerate(files)]
            new = joined([run for runs in found for run in runs], results)
            check_evaluators([run for runs in found for run in runs], results)
            for run in new:
                _bring_in(run, results)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    tables = write_report(results)
    for sentence in tables.left_out_told:
        print(sentence)
    print(f"{len(new)} runs were brought into {results}; its page is {results / 'index.html'}")


def _unpacked(file: Path, into: Path) -> list[Found]:
    into.mkdir(parents=True)
    contents, _ = unpack(file, into)
    return [Found(file, RunFolder(into / name), run) for name, run in contents.runs.items()]


def _bring_in(found: Found, results: Path) -> None:
    """Give a run that was unpacked its place, at once."""
    flush_files(found.folder.path)
    os.rename(found.folder.path, results / found.folder.name)
    print(f"{found.folder.name}  brought in from {found.file}")
