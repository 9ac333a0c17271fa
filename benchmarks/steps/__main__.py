"""Time training steps against the published way of working, and the waits around training; prints one table.

    python -m benchmarks.steps                              # all, half an hour of CPU time
    python -m benchmarks.steps --only dpo kto --updates 8   # some rows
    python -m benchmarks.steps --only dpo --model sdxl_mini train.ema_decay=0.98

A plain step of each method (`benchmarks.reference_steps`) and the program take turns in the program's own loop, one
process and one thread. What is compared is CPU time, so other programs on the machine disturb little. Ratios are those
of turns that followed each other; the median is shown with the interval of the sign test. The ceiling is the ratio if
the program did nothing but its network passes: the plain step's time over passes times the time of a pass, in the same
turns. A turn is a batch of samples with all its optimizer updates. Shares outside networks include the optimizer.
"""

import argparse
import os
import platform
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

from alignbench.files import write_json
from alignbench.store.provenance import PACKAGES, commit, now
from benchmarks.steps.commands import finished_command, first_update, report_seconds, scoring_outside
from benchmarks.steps.data import write_pairs
from benchmarks.steps.interval import Interval
from benchmarks.steps.rows import ROWS
from benchmarks.steps.table import HEADS, figures_of, lines_of, markdown
from benchmarks.steps.turns import measure

WAITS = ("first-update", "finished-command", "scoring", "report")
NUM_METHODS = (1, 4, 10)  # whose reports are timed


def machine() -> dict[str, Any]:
    """Return what figures depend on."""
    return {
        "date": now(),
        "commit": commit(),
        "processor": _processor(),
        "cores": psutil.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": psutil.getloadavg()[0],
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def wait(name: str, arguments: argparse.Namespace, data: Path, root: Path) -> tuple[dict[str, Any], list[list[str]]]:
    """Measure one of `WAITS`; return its figures and its lines of the table."""
    repetitions = arguments.updates or 3
    root.mkdir()
    if name == "scoring":
        shares = scoring_outside(root, arguments.images, repetitions)
        shown = Interval.of([100 * share for share in shares]).shown(".1f")
        return {"outside_networks": shares}, [["scoring, share outside networks", f"{shown} %", ""]]
    if name == "report":
        seconds = report_seconds(root, NUM_METHODS, arguments.resamples)
        lines = [[f"report of {num} methods", f"{one:.1f} s", ""] for num, one in seconds.items()]
        return {"resamples": arguments.resamples, "cpu_seconds": seconds}, lines
    found = (
        first_update(arguments.model or "sd15_mini", data, root, repetitions)
        if name == "first-update"
        else finished_command(root, repetitions)
    )
    told = {"first-update": "first update, all prepared", "finished-command": "the same command when all is done"}[name]
    cpu, wall = (Interval.of(seconds).shown(".1f") for seconds in (found.cpu, found.wall))
    return asdict(found), [[told, f"{cpu} s", f"{wall} s"]]


def run(arguments: argparse.Namespace, data: Path, work: Path, show: Callable[[str], None]) -> dict[str, Any]:
    """Measure what was asked for; tell of each row when it is done, and return all figures."""
    figures: dict[str, Any] = {"machine": machine(), "settings": arguments.overrides, "steps": {}, "waits": {}}
    lines, waits = [], []
    for row in (row for row in ROWS if row.name in arguments.only):
        measured = measure(row, arguments.model, data, arguments.updates or row.updates, arguments.overrides)
        figures["steps"][row.name] = figures_of(measured)
        lines += lines_of(measured)
        show(" | ".join(lines[-1]))
        _keep(arguments.json, figures)
    for name in (name for name in WAITS if name in arguments.only):
        figures["waits"][name], told = wait(name, arguments, data, work / name)
        waits += told
        show(" | ".join(told[-1]))
        _keep(arguments.json, figures)
    if lines:
        show(f"\n{markdown(HEADS, lines)}")
    if waits:
        show(f"\n{markdown(('wait', 'CPU', 'clock'), waits)}")
    show("\n" + ", ".join(f"{name} {value}" for name, value in figures["machine"].items()))
    return figures


def _keep(file: Path | None, figures: dict[str, Any]) -> None:
    if file is not None:
        write_json(file, figures)


def main(argv: list[str] | None = None) -> None:
    names = [*(row.name for row in ROWS), *WAITS]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.steps", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--model", help="instead of each row's own miniature")
    parser.add_argument("--updates", type=int, help="paired turns of each row (6 or 8), repetitions of each wait (3)")
    parser.add_argument("--resamples", type=int, default=10_000, help="of the reports")
    parser.add_argument("--images", type=int, default=64, help="that are scored")
    parser.add_argument("--pairs", type=int, default=240, help="of training data")
    parser.add_argument("--json", type=Path, help="file for all figures, written after every row")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as on the command line of alignbench")
    arguments = parser.parse_intermixed_args(argv)
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the commands that are started
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        os.environ["XDG_CACHE_HOME"] = str(work / "cache")  # what others have encoded is theirs
        write_pairs(work / "data", arguments.pairs)
        run(arguments, work / "data", work, lambda text: print(text, flush=True))


if __name__ == "__main__":
    main()
