"""Run the same cells by every launcher, and compare what they leave; on Slurm also with jobs that fail and are stopped.

    python -m benchmarks.launchers --launchers joblib submitit_local ray submitit_slurm
    python -m benchmarks.launchers --faults

- Launchers: two methods, two models and three seeds, one after the other in one process and then by each launcher.
  Every policy, image and score has to be the same, byte for byte.
- Faults: twelve cells on the Slurm that `sbatch` reaches. The run folder of one is damaged, one job is put back into
  the queue as by preemption, and one gets the signal that Slurm sends before a time limit. The command has to name the
  damaged one and do all others; repeated without the damage it has to do that one alone. In the end all has to be as
  by one process.

Exit status 1: something was not as promised.
"""

import argparse
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.faulty_runs import differences
from benchmarks.small_commands import FEW, SMALL

if TYPE_CHECKING:
    from alignbench.sweeps.standing import Row

ROOT = Path(__file__).parents[1]
TRAINED = (*SMALL, *FEW)
CELLS = ("method=sft,dpo", "model=sd15_mini,flux_mini", "seed=0,1,2")
SEEDS = ("method=sft", "model=sd15_mini", "seed=" + ",".join(map(str, range(12))))
LONG = ("train.max_train_steps=80", "stages=[train]")
SLURM = ("hydra.launcher.cpus_per_task=1", "hydra.launcher.timeout_min=60")
COMPARED = ("*/policy/**/*", "*/images/*/*/[!.]*", "*/scores/*/*/*.parquet", "*/train.jsonl")
STEP_SECONDS = 0.5


def told(words: Sequence[str], results: Path) -> tuple[int, str]:
    """Run a sweep; return its exit status and what it printed."""
    done = subprocess.run(_command(words, results), cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def _command(words: Sequence[str], results: Path) -> list[str]:
    return [sys.executable, "-m", "alignbench", "-m", *words, f"results={results}"]


def _launched(launcher: str) -> list[str]:
    return [f"hydra/launcher={launcher}", *(SLURM if launcher == "submitit_slurm" else ())]


def made(results: Path) -> dict[str, str]:
    """Return a digest of every file that the cells of a sweep have to have in common."""
    files = sorted(file for pattern in COMPARED for file in results.glob(pattern) if file.is_file())
    return {file.relative_to(results).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def by_launchers(launchers: Sequence[str], place: Path) -> list[str]:
    """Run the cells in one process and by each launcher; return what is wrong."""
    words = [*TRAINED, *CELLS]
    status, text = told(words, place / "serial")
    if status:
        raise RuntimeError(text[-3000:])
    expected, wrong = made(place / "serial"), []
    print(f"one process: {len(expected)} files", flush=True)
    for launcher in launchers:
        begin = time.monotonic()
        status, text = told([*words, *_launched(launcher)], place / launcher)
        found = differences(made(place / launcher), expected)
        wrong += [f"{launcher}: exit status {status}: {text[-500:]}"] if status else []
        wrong += [f"{launcher}: {one}" for one in found]
        took = time.monotonic() - begin
        print(f"{launcher}: {len(found)} differences, exit status {status}, {took:.0f} s", flush=True)
    return wrong


# ---- faults on Slurm


def with_faults(place: Path) -> list[str]:
    """Run the cells on Slurm with faults, then again without; return what is wrong."""
    from alignbench.configuration.build import run_name
    from alignbench.configuration.compose import composed

    words, results = [*TRAINED, *LONG, *SEEDS], place / "slurm"
    first = [*words[:-1], "seed=0"]
    damaged = results / run_name(composed(first))
    damaged.mkdir(parents=True)
    (damaged / "manifest.json").write_text("damaged")
    with (place / "log").open("w") as log:
        sweep = subprocess.Popen(
            _command([*words, *_launched("submitit_slurm")], results), cwd=ROOT, stdout=log, stderr=log
        )
        stopped = _stop_two(results, sweep)
        _wait_for(sweep)
    text = (place / "log").read_text()
    print(text, flush=True)
    wrong = [f"exit status {sweep.returncode}, expected 2"] if sweep.returncode != 2 else []
    if f"{damaged}/manifest.json is not JSON" not in " ".join(text.split()):
        wrong.append("the damaged cell is not named")
    rows = _rows(results)
    wrong += [f"{name}: {row.standing}" for name, row in rows.items() if row.standing != "done" and name != "01-seed0"]
    wrong += [f"{name} was not started again" for name in stopped if rows[name].state.attempts < 2]
    shutil.rmtree(damaged)
    status, again = told([*words, *_launched("submitit_slurm")], results)
    print(again, flush=True)
    wrong += [f"repeated: exit status {status}"] if status else []
    wrong += ["repeated: not one job alone"] if "1 of 12 jobs are left" not in again else []
    status, text = told(words, place / "serial")
    wrong += [f"one process: exit status {status}: {text[-500:]}"] if status else []
    return wrong + differences(made(results), made(place / "serial"))


def _rows(results: Path) -> "dict[str, Row]":
    from alignbench.sweeps.record import read_sweeps
    from alignbench.sweeps.standing import standing_of

    (sweep,), _ = read_sweeps(results)
    return {row.cell.slug: row for row in standing_of(results, sweep)}


def _stop_two(results: Path, sweep: "subprocess.Popen[bytes]") -> list[str]:
    """Stop two cells that train, one as preemption and one as a time limit does; return their names."""
    training = []
    while len(training) < 2 and sweep.poll() is None:
        time.sleep(STEP_SECONDS)
        if list(results.glob("sweeps/*.json")):
            rows = _rows(results)
            training = [
                name for name, row in rows.items() if row.standing == "running" and row.step.startswith("train")
            ]
    preempted, limited = training[:2]
    rows = _rows(results)
    subprocess.run(["scontrol", "requeue", str(rows[preempted].state.job)], check=True)
    subprocess.run(["scancel", "--signal=USR2", str(rows[limited].state.job)], check=True)
    print(f"{preempted} is preempted, {limited} is at its limit", flush=True)
    return [preempted, limited]


def _wait_for(sweep: "subprocess.Popen[bytes]") -> None:
    """Wait for a sweep; jobs that Slurm lets wait for two minutes start at once."""
    hastened = set()
    while sweep.poll() is None:
        time.sleep(STEP_SECONDS)
        waiting = subprocess.run(  # which may fail while Slurm is busy
            ["squeue", "-hr", "-t", "PD", "-o", "%i|%r"], capture_output=True, text=True, check=False
        )
        for line in waiting.stdout.split():
            job, _, why = line.partition("|")
            if why == "BeginTime" and job not in hastened:
                # at once, the node could take it for the job that it has just been told to end
                subprocess.run(["scontrol", "update", f"jobid={job}", "StartTime=now+3"], check=False)
                hastened.add(job)


def main() -> None:
    """Do as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--launchers", nargs="+", default=[], metavar="NAME", help="of conf/hydra/launcher")
    parser.add_argument("--faults", action="store_true", help="the cells with faults, on Slurm")
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    place = Path(tempfile.mkdtemp(prefix="launchers-"))
    wrong = by_launchers(arguments.launchers, place) if arguments.launchers else []
    wrong += with_faults(place) if arguments.faults else []
    for one in wrong:
        print(one)
    print(f"{len(wrong)} not as promised; what was made is in {shlex.quote(str(place))}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
