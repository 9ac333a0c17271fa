"""F11: a job of a real Slurm whose end is announced goes back into the queue, and ends as one that ran through."""

import sys
from pathlib import Path

import pytest

from tests.program import SMALL_RUN, alignbench
from tests.slurm import ask, wait_until
from tests.tiny_runs import files_of

ROOT = Path(__file__).parents[2]
WORDS = [
    "method=sft", "model=sd15_mini", *SMALL_RUN, "train.max_train_steps=120", "train.checkpointing_steps=1000",
    "tracker=none", "stages=[train]", "requeue=true",
]  # fmt: skip


@pytest.mark.matrix
def test_a_job_that_is_announced_its_end_is_queued_again_and_goes_on(slurm, tmp_path):
    script, log, results = tmp_path / "job.sh", tmp_path / "job.log", tmp_path / "results"
    command = " ".join([f"'{word}'" for word in [*WORDS, f"results={results}"]])
    script.write_text(
        f"#!/bin/bash\n#SBATCH --requeue --signal=USR1@60 --time=60 --open-mode=append --output={log}\n"
        f"cd {ROOT}\nsrun {sys.executable} -m alignbench {command}\n"
    )
    job = ask("sbatch", "--parsable", str(script))
    wait_until(lambda: any(file.read_text().count("\n") >= 3 for file in results.glob("sft-*/train.jsonl")))
    ask("scancel", "--signal=USR1", job)  # to its steps, as --signal=USR1@60 does
    wait_until(lambda: "PENDING" in ask("scontrol", "show", "job", job))
    (checkpoint,) = results.glob("sft-*/checkpoints/step-*")
    # it would wait for two minutes; at once, the node could take it for the job that it has just been told to end
    ask("scontrol", "update", f"jobid={job}", "StartTime=now+3")
    wait_until(lambda: "JobState=COMPLETED" in ask("scontrol", "show", "job", job))
    said = log.read_text()
    assert f"keeps the checkpoint of update {checkpoint.name[5:]}; Slurm is asked to put job {job} back" in said
    assert "Restarts=1" in ask("scontrol", "show", "job", job)
    alignbench(*WORDS, f"results={tmp_path / 'whole'}")
    (requeued,), (whole,) = results.glob("sft-*/policy"), (tmp_path / "whole").glob("sft-*/policy")
    assert files_of(requeued) == files_of(whole)
