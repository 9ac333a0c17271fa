"""Measure how CPU time and peak memory of commands grow with pairs, prompts, evaluators and methods: 1, 4 and 16 times.

    python -m benchmarks.growth --csv growth.csv --svg growth.svg    # all, some minutes of one core
    python -m benchmarks.growth --only report-methods                # one row

A row makes one thing larger and leaves all else small. Each command is a process of its own with one thread; its time
and memory are what the system counted, the loading of libraries included. Nothing is downloaded.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from alignbench.files import write_csv, write_text
from alignbench.store.image_records import PromptRecord, image_name
from benchmarks.growth.plot import Curve, svg
from benchmarks.report import EVALUATORS, write_runs
from benchmarks.steps.data import write_pairs

FACTORS = (1, 4, 16)
COLUMNS = ("row", "factor", "size", "cpu_seconds", "peak_mib")
RESAMPLES = 2000
ALIGNBENCH = [sys.executable, "-m", "alignbench", "model=sd15_mini", "tracker=none", "calibration=false"]
REPORT = "import sys; from alignbench.report.write import write_report; write_report(sys.argv[1], int(sys.argv[2]))"


@dataclass(frozen=True)
class Measured:
    """What a command took.

    Attributes:
        row: name of the row.
        factor: how many times as large as the smallest.
        size: how many pairs, prompts, evaluators or methods there were.
        cpu_seconds: of all its threads.
        peak_mib: the largest part of it that was in memory.
    """

    row: str
    factor: int
    size: int
    cpu_seconds: float
    peak_mib: float


@dataclass(frozen=True)
class Row:
    """One command and what of it grows.

    Attributes:
        title: what it is, for the plot.
        smallest: size at factor 1.
        prepare: makes what the command reads, in a folder for it and of a given size, and returns the command.
    """

    title: str
    smallest: int
    prepare: Callable[[Path, int], list[str]]


def training(folder: Path, num_pairs: int) -> list[str]:
    """Encode all pairs and train on each of them once."""
    write_pairs(folder / "data", num_pairs)
    size = ("train.total_batch_size=24", "train.micro_batch_size=24", f"train.max_train_steps={num_pairs // 24}")
    data = ("data=local", f"data.path={folder / 'data'}", f"results={folder / 'results'}")
    return [*ALIGNBENCH, "method=dpo", "stages=[prepare,train]", *data, *size]


def images(folder: Path, num_prompts: int) -> list[str]:
    """Sample an image for each prompt and score it."""
    sampling = ("sampling.num_inference_steps=4", f"prompts.limit={num_prompts}", f"results={folder / 'results'}")
    return [*ALIGNBENCH, "method=base", "stages=[generate,score]", *sampling]


def report(folder: Path, num_prompts: int = 200, num_evaluators: int = 1, num_methods: int = 1) -> list[str]:
    """Make all tables, charts and the page of scores that are made up."""
    ids = [f"p-{number:05d}" for number in range(num_prompts)]
    prompts = [PromptRecord(one, f"prompt {one}", (), (image_name(one, 0),)) for one in ids]
    evaluators = [(f"evaluator_{number}", *EVALUATORS[0][1:]) for number in range(num_evaluators)]
    write_runs(folder, num_methods, sets={"hpdv2": prompts}, evaluators=evaluators)
    return [sys.executable, "-c", REPORT, str(folder), str(RESAMPLES)]


ROWS = {
    "train-pairs": Row("prepare and train: pairs", 48, training),
    "images-prompts": Row("sample and score: prompts", 24, images),
    "report-prompts": Row("report: prompts", 200, lambda folder, size: report(folder, num_prompts=size)),
    "report-evaluators": Row("report: evaluators", 1, lambda folder, size: report(folder, num_evaluators=size)),
    "report-methods": Row("report: methods", 1, lambda folder, size: report(folder, num_methods=size)),
}


def measure(name: str, factor: int, folder: Path) -> Measured:
    """Run a row's command at one size.

    Raises:
        RuntimeError: it failed.
    """
    size = ROWS[name].smallest * factor
    command = ROWS[name].prepare(folder, size)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder / "cache")}
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {(folder / 'output').read_text(errors='replace')[-2000:]}")
    return Measured(name, factor, size, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.growth", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="NAME", help=", ".join(ROWS))
    parser.add_argument("--factors", nargs="+", type=int, default=FACTORS, metavar="N")
    parser.add_argument("--csv", type=Path, help="table to write")
    parser.add_argument("--svg", type=Path, help="plot to write")
    arguments = parser.parse_args(argv)
    found: list[Measured] = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in arguments.only:
            for factor in arguments.factors:
                folder = Path(temporary) / f"{name}-{factor}"
                folder.mkdir()
                found.append(one := measure(name, factor, folder))
                print(f"{name} {one.size}: CPU {one.cpu_seconds:.1f} s, peak {one.peak_mib:.0f} MiB", flush=True)
    if arguments.csv:
        write_csv(arguments.csv, COLUMNS, map(asdict, found))
    if arguments.svg:
        write_text(
            arguments.svg, svg([_curve(name, [one for one in found if one.row == name]) for name in arguments.only])
        )


def _curve(name: str, found: Sequence[Measured]) -> Curve:
    factors, seconds, mib = zip(*((one.factor, one.cpu_seconds, one.peak_mib) for one in found), strict=True)
    return Curve(ROWS[name].title, factors, seconds, mib)


if __name__ == "__main__":
    main()
