"""How the sweeps of a results folder stand.

    python -m alignbench.sweeps results
    python -m alignbench.sweeps results --watch
    python -m alignbench.sweeps results --retry

Everything is read from the folder, so any shell that sees it can ask, also on another machine. docs/sweeps.md explains
the table.
"""

import argparse
import os
import shlex
import sys
import time
from pathlib import Path
from typing import NoReturn

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from alignbench.errors import UserError, did_you_mean
from alignbench.sweeps.ownership import is_own
from alignbench.sweeps.record import Sweep, read_sweeps
from alignbench.sweeps.standing import standing_of
from alignbench.sweeps.table import sweep_table
from alignbench.terminal.console import open_console
from alignbench.terminal.endings import one_sentence
from alignbench.terminal.signals import handled
from alignbench.text import printable

WATCH_SECONDS = 2.0


def main() -> None:
    """Answer as the command line asks. See `alignbench.terminal.endings` for its exit status."""
    args = parser().parse_args()
    results = Path(args.results).expanduser()
    with handled(), one_sentence(kept="the sweeps go on"):
        sweeps, damaged = chosen(results, args.sweep)
        if args.retry:
            retry(results, sweeps)
        console = open_console()
        show(results, sweeps, console, args.watch)
        if damaged:
            raise UserError("; ".join(damaged))


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m alignbench.sweeps", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("results", nargs="?", default="results", help="the results folder; default: results")
    made.add_argument("--sweep", metavar="NAME", help="only this sweep")
    what = made.add_mutually_exclusive_group()
    what.add_argument("--watch", action="store_true", help="print the table again every two seconds, until all is done")
    what.add_argument("--retry", action="store_true", help="run the cells that failed again, by the same command")
    return made


def chosen(results: Path, name: str | None) -> tuple[list[Sweep], list[str]]:
    """Return the sweeps that are asked about, and why others cannot be read.

    Raises:
        UserError: there are none.
    """
    if not results.is_dir():
        raise UserError(f"{results} does not exist; give the results folder of a sweep")
    sweeps, damaged = read_sweeps(results)
    if not sweeps:
        raise UserError("; ".join(damaged) or f"{results} holds no sweep; start one by python -m alignbench -m ...")
    if name is None:
        return sweeps, damaged
    names = [sweep.name for sweep in sweeps]
    if name not in names:
        raise UserError(f"--sweep {name} is unknown;{did_you_mean(name, names)}")
    return [sweep for sweep in sweeps if sweep.name == name], damaged


def show(results: Path, sweeps: list[Sweep], console: Console, watch: bool) -> None:
    """Print the tables of sweeps; with `watch`, again and again until nothing goes on by itself."""

    def tables() -> Group:
        return Group(*(part for sweep in sweeps for part in (sweep_table(results, sweep), Text())))

    if not watch:
        console.print(tables(), crop=False)
        return
    with Live(tables(), console=console, auto_refresh=False, vertical_overflow="visible") as live:
        while not _is_over(results, sweeps):
            time.sleep(WATCH_SECONDS)
            live.update(tables(), refresh=True)


def _is_over(results: Path, sweeps: list[Sweep]) -> bool:
    """Say whether nothing goes on by itself; a stopped cell does if its job is in a queue, which starts it again."""
    rows = [row for sweep in sweeps for row in standing_of(results, sweep)]
    return not any(
        row.standing in ("waiting", "running") or (row.standing == "pre-empted" and row.state.job is not None)
        for row in rows
    )


def retry(results: Path, sweeps: list[Sweep]) -> NoReturn:
    """Run the failed cells of a sweep in place of this program, by the command of the sweep.

    Raises:
        UserError: no cell has failed, or cells of several sweeps have; or somebody else typed the command, which could
            start any program; or the results have moved since.
    """
    failed = {s.name: s for s in sweeps for row in standing_of(results, s) if row.standing == "failed"}
    if not failed:
        raise UserError("no cell has failed; repeat the command of a sweep to run what is left of it")
    if len(failed) > 1:
        raise UserError(f"cells of {len(failed)} sweeps have failed; choose one by --sweep: {', '.join(failed)}")
    (sweep,) = failed.values()
    if not is_own(sweep.command, sweep.folder, sweep.signed):
        told = printable(shlex.join([*sweep.command, "--failed"]))
        raise UserError(
            f"sweep {sweep.name} was not started by you with this home folder, so its command is not run for you; if "
            f"you trust it, type: python -m alignbench {told}"
        )
    from alignbench.configuration.typed.words import results_of

    if not os.path.isdir(sweep.folder):
        raise UserError(f"the sweep was started in {sweep.folder}, which is not there; repeat its command")
    written = Path(sweep.folder) / results_of(sweep.command)
    if written.resolve() != results.resolve():
        raise UserError(
            f"the command of the sweep writes to {written}, and not to {results}; repeat it with the results folder of "
            f"today: python -m alignbench {shlex.join(sweep.command)} {shlex.quote(f'results={results.resolve()}')} "
            "--failed"
        )
    os.chdir(sweep.folder)
    os.execv(sys.executable, [sys.executable, "-m", "alignbench", *sweep.command, "--failed"])


if __name__ == "__main__":
    main()
