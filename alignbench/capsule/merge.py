"""Bring the runs of capsules into a results folder, each whole or not at all."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from alignbench.capsule.check import unpack
from alignbench.capsule.conflicts import RunToMerge, check_comparable, runs_to_merge
from alignbench.capsule.join import Copy, joined_contents, with_all_of
from alignbench.errors import UserError
from alignbench.files import flush_files, locked
from alignbench.report.write import write_report
from alignbench.statistics.resampling import NUM_RESAMPLES
from alignbench.store.origin.capsule_record import read_contents, write_contents
from alignbench.store.run_folder import RunFolder
from alignbench.terminal.waiting import waiting

STAGING = ".merging"  # folder in the results; nothing in it is read as results


def merge(files: Sequence[Path], results: Path, num_resamples: int = NUM_RESAMPLES) -> None:
    """Bring the runs of capsules into a results folder, and write its tables and its page.

    Raises:
        UserError: as `bring_in`.
    """
    bring_in(files, results)
    tables = write_report(results, num_resamples)
    for sentence in tables.left_out_told:
        print(sentence)
    print(f"the tables and the page of {results} are written: {results / 'index.html'}")


def bring_in(files: Sequence[Path], results: Path) -> None:
    """Bring the runs of capsules into a results folder, which keeps what it has.

    All capsules are checked before the first run is brought in.

    Raises:
        UserError: a capsule is damaged, or contradicts another or what is there; then nothing is brought in.
    """
    if results.exists() and not results.is_dir():
        raise UserError(f"{results} is a file; give a results folder as the last word")
    if RunFolder(results).manifest_file.exists():
        raise UserError(f"{results} is one run; give the results folder, here {results.resolve().parent}")
    if missing := [file for file in files if not file.is_file()]:
        raise UserError(f"{missing[0]} is no file; give capsules, and the results folder as the last word")
    staging = results / STAGING
    with locked(results / ".merge.lock"):
        shutil.rmtree(staging, ignore_errors=True)  # of a merge that was killed
        try:
            copies = [copy for number, file in enumerate(files) for copy in _unpacked(file, staging / str(number))]
            runs = runs_to_merge(copies, results)
            check_comparable(copies, results)
            for run in runs:
                print(f"{run.name}  {_place(run, results)}")
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _unpacked(file: Path, into: Path) -> list[Copy]:
    into.mkdir(parents=True)
    with waiting(f"checking {file.name}"):
        contents, _ = unpack(file, into)
    return [Copy(str(file), RunFolder(into / name), run) for name, run in contents.runs.items()]


def _place(run: RunToMerge, results: Path) -> str:
    """Give a run its place, at once; say what was done."""
    first, *others = run.copies
    if run.is_own:
        return "is there already, made here"
    if run.there is not None:
        return "is there already" if not _add(run.there.folder, run.copies) else "is there; what it lacked was added"
    _add(first.folder, others)
    flush_files(first.folder.path)
    os.rename(first.folder.path, results / run.name)
    return f"is new, from {', '.join(dict.fromkeys(copy.source for copy in run.copies))}"


def _add(target: RunFolder, copies: Sequence[Copy]) -> bool:
    """Add what copies of a run have to a run folder; return whether anything was lacking.

    The manifest comes after the files that it names, and the record last, so that nobody reads a half.
    """
    before = read_contents(target)
    lacking = {file: copy for copy in copies for file in copy.contents.files if file not in before.files}
    for file, copy in lacking.items():
        (target.path / file).parent.mkdir(parents=True, exist_ok=True)
        os.replace(copy.folder.path / file, target.path / file)
        flush_files(target.path / file)
    manifest = with_all_of(target, copies)
    is_new = manifest != target.manifest
    if is_new:
        manifest.write(target.manifest_file)
    contents = joined_contents(target, [before, *(copy.contents for copy in copies)])
    if lacking or is_new or contents.files.keys() != before.files.keys():
        write_contents(target, contents)
    return bool(lacking) or is_new
