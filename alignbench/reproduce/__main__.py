"""Run a row of a published table again, and say whether its figures come out.

    python -m alignbench.reproduce                                   # all rows
    python -m alignbench.reproduce smpo_sd15_dpo_hpdv2 --dry-run     # what it is and needs; needs no weights
    python -m alignbench.reproduce smpo_sd15_dpo_hpdv2 data.path=PICKAPIC
    python -m alignbench.reproduce smpo_sd15_dpo_hpdv2 --results results

A row is an experiment of conf/experiment: it runs as `python -m alignbench experiment=...` does, goes on where it was
stopped, and takes further settings. With --results nothing runs; the verdict is read from finished runs.
docs/reproducing.md explains the verdict.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from alignbench.errors import UserError
from alignbench.reproduce.command import as_typed, words_of
from alignbench.reproduce.listing import introduction, table
from alignbench.reproduce.rows import Row, find_row, read_rows
from alignbench.terminal.endings import is_main, one_sentence


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """Return the arguments of a command."""
    parser = argparse.ArgumentParser(
        prog="python -m alignbench.reproduce", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("row", nargs="?", help="row of a published table; none lists all")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="added to the command, as data.path=FOLDER")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--dry-run", action="store_true", help="check the command and estimate its memory; run nothing")
    how.add_argument("--results", metavar="FOLDER", type=Path, help="read the verdict from finished runs; run nothing")
    return parser.parse_intermixed_args(words)


def main() -> None:
    """Do what the command line says. See `alignbench.terminal.endings` for its exit status."""
    args = arguments(sys.argv[1:])
    with one_sentence():
        if args.row is None:
            print("\n".join(table(read_rows().values())))
            return
        row = find_row(args.row)
        if args.results is not None:
            _refuse_settings(args.settings)
            _conclude(row, args.results)
            return
        words = args.settings if args.dry_run else words_of(row, args.settings)
    if args.dry_run:
        _dry_run(row, words)
    else:
        _run(row, words)


def _refuse_settings(settings: Sequence[str]) -> None:
    if settings:
        raise UserError(f"--results runs nothing, so {settings[0]} has no effect; leave it out")


def _dry_run(row: Row, given: Sequence[str]) -> None:
    """Say what a row is and needs, check its command, and estimate its memory."""
    with one_sentence():
        print("\n".join(introduction(row, given)), flush=True)
        from alignbench.configuration.build import is_base
        from alignbench.configuration.compose import composed

        cfg = composed([*row.command, *given, "dry_run=true"])
        if is_base(cfg):
            print("  memory      nothing is trained")
            return
    _alignbench([*row.command, *given, "dry_run=true"])


def _run(row: Row, words: Sequence[str]) -> None:
    """Run a row and say what it came to."""
    if is_main():
        print(as_typed(words), flush=True)
    _alignbench(words)
    if is_main():
        from alignbench.configuration.build import run_name
        from alignbench.configuration.compose import unchecked
        from alignbench.stages.last_command import still_remembered
        from alignbench.store.run_folder import RunFolder

        ran = unchecked([*words])
        assert ran is not None  # it has run
        results = Path(ran.cfg.results)
        with (
            one_sentence(results, "the run is done"),
            still_remembered(ran.cfg, RunFolder(results / run_name(ran.cfg))),
        ):
            _conclude(row, results)


def _alignbench(words: Sequence[str]) -> None:
    """Do what `python -m alignbench WORDS` does; a command that fails ends the program."""
    from alignbench.cli import main as main_program

    sys.argv[1:] = words
    main_program()


def _conclude(row: Row, results: Path) -> None:
    from alignbench.reproduce.report import conclude

    results = results.expanduser()
    for line in conclude(row, results):
        print(line, flush=True)
    if (page := results / "index.html").exists():
        from alignbench.report.write import write_report

        write_report(results)
        print(f"  page        {page}")


if __name__ == "__main__":
    main()
