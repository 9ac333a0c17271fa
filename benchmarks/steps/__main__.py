"""Time training steps against the published way of working, and the waits around training; prints one table.

    python -m benchmarks.steps                              # all, a quarter of an hour of CPU time
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
from transformers.utils import logging

from alignbench.files import write_json
from alignbench.store.origin.provenance import PACKAGES, commit, now
from benchmarks.steps.commands import finished_command, first_update, report_seconds, scoring_outside
from benchmarks.steps.data import write_pairs
from benchmarks.steps.interval import Interval
from benchmarks.steps.rows import ROWS
from benchmarks.steps.table import HEADS, figures_of, lines_of, markdown
from benchmarks.steps.turns import measure

Found = tuple[dict[str, Any], list[tuple[str, ...]]]  # figures, and lines of the table
REPETITIONS = 3  # of a wait
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


def _first_update(arguments: argparse.Namespace, data: Path, root: Path) -> Found:
    found = first_update(arguments.model or "sd15_mini", data, root, arguments.updates or REPETITIONS)
    return asdict(found), [found.line("first update, all prepared")]


def _finished_command(arguments: argparse.Namespace, data: Path, root: Path) -> Found:
    found = finished_command(root, arguments.updates or REPETITIONS)
    return asdict(found), [found.line("the same command when all is done")]


def _scoring(arguments: argparse.Namespace, data: Path, root: Path) -> Found:
    shares = scoring_outside(root, arguments.images, arguments.updates or REPETITIONS)
    shown = Interval.of([100 * share for share in shares]).shown(".1f")
    return {"outside_networks": shares}, [("scoring, share outside networks", "", f"{shown} %")]


def _report(arguments: argparse.Namespace, data: Path, root: Path) -> Found:
    seconds = report_seconds(root, NUM_METHODS, arguments.resamples)
    lines = [(f"report of base and {num} methods", f"{one:.1f} s", "") for num, one in seconds.items()]
    return {"resamples": arguments.resamples, "cpu_seconds": seconds}, lines


WAITS: dict[str, Callable[[argparse.Namespace, Path, Path], Found]] = {
    "first-update": _first_update,
    "finished-command": _finished_command,
    "scoring": _scoring,
    "report": _report,
}


def run(arguments: argparse.Namespace, data: Path, work: Path, show: Callable[[str], None]) -> dict[str, Any]:
    """Measure what was asked for; tell of each row when it is done, and return all figures."""
    figures: dict[str, Any] = {"machine": machine(), "settings": arguments.overrides, "steps": {}, "waits": {}}
    lines: list[tuple[str, ...]] = []
    waits: list[tuple[str, ...]] = []
    for row in (row for row in ROWS if row.name in arguments.only):
        measured = measure(row, arguments.model, data, arguments.updates or row.updates, arguments.overrides)
        figures["steps"][row.name] = figures_of(measured)
        for line in lines_of(measured):
            lines.append(line)
            show(" | ".join(line))
        _keep(arguments.json, figures)
    for name in (name for name in WAITS if name in arguments.only):
        (work / name).mkdir()
        figures["waits"][name], told = WAITS[name](arguments, data, work / name)
        for line in told:
            waits.append(line)
            show(" | ".join(line))
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
    parser.add_argument(
        "--updates", type=int, help=f"paired turns of each row (6 or 8), repetitions of each wait ({REPETITIONS})"
    )
    parser.add_argument("--resamples", type=int, default=10_000, help="of the reports")
    parser.add_argument("--images", type=int, default=64, help="that are scored")
    parser.add_argument("--pairs", type=int, default=240, help="of training data")
    parser.add_argument("--json", type=Path, help="file for all figures, written after every row")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as on the command line of alignbench")
    arguments = parser.parse_intermixed_args(argv)
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    os.environ["OMP_NUM_THREADS"] = "1"  # of the commands that are started
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        os.environ["XDG_CACHE_HOME"] = str(work / "cache")  # what others have encoded is theirs
        write_pairs(work / "data", arguments.pairs)
        run(arguments, work / "data", work, lambda text: print(text, flush=True))


if __name__ == "__main__":
    main()
