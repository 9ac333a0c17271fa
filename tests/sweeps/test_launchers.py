"""The same cells by every launcher, with the real thing: the bytes of their policies and images are the same."""

import os
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from alignbench.configuration.build import run_name
from alignbench.configuration.compose import composed
from alignbench.sweeps.record import read_sweeps
from alignbench.sweeps.standing import standing_of
from tests.program import SMALL_RUN, alignbench
from tests.slurm import ask, wait_until
from tests.tiny_runs import files_of

ROOT = Path(__file__).parents[2]
RUN = ["model=sd15_mini", *SMALL_RUN, "tracker=none", "stages=[train,generate]"]
TIME_LIMIT = 600.0  # seconds


def program(*words, check=True):
    """Run the program in a process of its own, as a launcher of Slurm or Ray may need."""
    command = [sys.executable, "-m", "alignbench", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=check, timeout=TIME_LIMIT)


def made(results):
    """The bytes of every policy and image of a results folder."""
    folders = [*results.glob("*/policy"), *results.glob("*/images")]
    return {folder.relative_to(results): files_of(folder) for folder in folders}


def standings(results):
    (sweep,), damaged = read_sweeps(results)
    assert damaged == []
    return {row.cell.slug: row for row in standing_of(results, sweep)}


@pytest.mark.matrix
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "ray"])
def test_a_launcher_makes_what_one_process_makes(launcher, tmp_path):
    package = launcher.partition("_")[0]
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed (uv sync --extra {'ray' if package == 'ray' else 'cluster'})")
    words = ["-m", "method=sft", "seed=0", *RUN]
    program(*words, f"results={tmp_path / launcher}", f"hydra/launcher={launcher}")
    alignbench(*words, f"results={tmp_path / 'serial'}")
    assert made(tmp_path / launcher) == made(tmp_path / "serial")
    rows = standings(tmp_path / launcher)
    assert {slug: row.standing for slug, row in rows.items()} == {"base-0": "done", "1": "done"}


# ---- Slurm


@pytest.mark.matrix
def test_a_sweep_on_slurm_with_a_bad_a_preempted_and_a_limited_cell_ends_right(slurm, tmp_path):
    results = tmp_path / "results"
    words = ["-m", "method=sft", "seed=0,1,2", *RUN, "train.max_train_steps=80", "stages=[train]"]
    damaged = results / run_name(composed(["method=sft", "seed=0", *words[3:]]))
    damaged.mkdir(parents=True)
    (damaged / "manifest.json").write_text("damaged")
    command = [*words, f"results={results}", "hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=1"]
    with subprocess.Popen(
        [sys.executable, "-m", "alignbench", *command, "hydra.launcher.timeout_min=60"],
        cwd=ROOT, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as sweep:  # fmt: skip
        wait_until(lambda: len(list(results.glob("sft-*/train.jsonl"))) == 2)
        rows = standings(results)
        preempted, limited = rows["2-seed1"].state.job, rows["3-seed2"].state.job
        assert ask("squeue", "-h", "-j", preempted, "-o", "%j") == "2-seed1"
        ask("scancel", "--signal=USR2", limited)  # as Slurm sends it before the limit
        ask("scontrol", "requeue", preempted)  # as preemption without GraceTime does
        deadline = time.monotonic() + TIME_LIMIT
        hastened = set()
        while sweep.poll() is None:
            assert time.monotonic() < deadline
            waiting = subprocess.run(  # which may fail while Slurm is busy
                ["squeue", "-hr", "-t", "PD", "-o", "%i|%r"], capture_output=True, text=True, check=False
            )
            for line in waiting.stdout.split():
                job, _, why = line.partition("|")
                if why == "BeginTime" and job not in hastened:  # it would wait for two minutes
                    # at once, the node could take it for the job that it has just been told to end
                    subprocess.run(["scontrol", "update", f"jobid={job}", "StartTime=now+3"], check=False)
                    hastened.add(job)
            time.sleep(0.5)
        told, _ = sweep.communicate()
    assert sweep.returncode == 2
    assert f"seed=0: failed: {damaged}/manifest.json is not JSON" in " ".join(told.split())
    rows = standings(results)
    assert [row.standing for row in rows.values()] == ["failed", "done", "done"]
    assert all(row.state.attempts >= 2 for row in list(rows.values())[1:])
    shutil.rmtree(damaged)
    assert "1 of 3 jobs are left" in program(*command).stdout
    alignbench(*words, f"results={tmp_path / 'serial'}")
    assert made(results) == made(tmp_path / "serial")
