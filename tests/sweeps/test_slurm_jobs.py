"""Jobs of Slurm: none is submitted twice, none is waited for in vain, and how each ended is noted."""

import pytest

from alignbench.errors import UserError
from alignbench.settings.launchers import OfSubmititSlurm
from alignbench.sweeps.launchers import submitit_slurm
from alignbench.sweeps.launchers.submitit_slurm import _settle, run
from alignbench.sweeps.state import CellFiles, State
from alignbench.terminal import slurm
from tests.sweeps.sweeps import order, small_sweep, states


@pytest.fixture
def squeue(tmp_path, monkeypatch):
    """Let `squeue` print a text, and `sbatch` exist."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def answer(text, status=0):
        for name in ("squeue", "sbatch"):
            (folder / name).write_text(f"#!/bin/sh\necho '{text}' >&{2 if status else 1}\nexit {status}\n")
            (folder / name).chmod(0o755)

    return answer


def test_what_slurm_knows_of_jobs_is_read(squeue):
    squeue("7_0|RUNNING|None\n7_1|PENDING|launch failed requeued held")
    assert slurm.standings(["7_0", "7_1", "7_2"]) == {
        "7_0": ("RUNNING", "None"),
        "7_1": ("PENDING", "launch failed requeued held"),
    }
    assert slurm.is_running("7_0")
    assert not slurm.is_running("7_1")
    squeue("7_0|SIGNALING|None")
    assert slurm.is_running("7_0"), "it is being preempted"
    squeue("7_0|COMPLETING|None")
    assert not slurm.is_running("7_0"), "it is being cancelled"


def test_jobs_that_slurm_no_longer_knows_have_ended_and_silence_is_no_end(squeue):
    squeue("slurm_load_jobs error: Invalid job id specified", status=1)
    assert slurm.standings(["7"]) == {}
    squeue("slurm_load_jobs error: Unable to contact slurm controller", status=1)
    assert slurm.standings(["7"])["7"][0] in slurm.UNENDED


@pytest.mark.parametrize(
    ("noted", "slurm_says", "standing"),
    [
        ("running", "CANCELLED", "failed"),
        ("running", "OUT_OF_MEMORY", "failed"),
        ("running", "", "failed"),
        ("running", "NODE_FAIL", "pre-empted"),
        ("running", "TIMEOUT", "pre-empted"),
        ("pre-empted", "COMPLETED", "pre-empted"),
        ("pre-empted", "CANCELLED", "failed"),
        ("done", "COMPLETED", "done"),
        ("done", "CANCELLED", "done"),
    ],
)
def test_what_a_cell_could_not_note_is_noted_for_it(tmp_path, noted, slurm_says, standing):
    sweep = small_sweep(["a"])
    CellFiles(tmp_path, sweep, sweep.cells[0]).write(State(noted, job="7_0"))
    _settle(order(tmp_path, sweep, [0]), 0, "7_0", slurm_says)
    (state,) = states(tmp_path, sweep)
    assert state.standing == standing
    assert noted == "done" or f"Slurm ended job 7_0 ({slurm_says or 'it is no longer known'})" == state.reason


def settings():
    return OfSubmititSlurm.model_construct()


def test_jobs_that_are_in_the_queue_are_waited_for_and_not_submitted_again(tmp_path, monkeypatch, squeue):
    squeue("")
    sweep = small_sweep(["a", "b", "c"], base="base")
    files = [CellFiles(tmp_path, sweep, cell) for cell in sweep.cells]
    files[0].queue("7")
    files[1].queue("8_0")
    submitted, told = [], []
    answers = iter([
        {"7": ("RUNNING", ""), "8_0": ("PENDING", "Dependency")},
        {"7": ("COMPLETED", ""), "8_0": ("PENDING", "JobHeldUser"), "9_0": ("PENDING", ""), "9_1": ("CANCELLED", "")},
    ])  # fmt: skip
    monkeypatch.setattr(slurm, "standings", lambda jobs: next(answers, {}))
    monkeypatch.setattr(submitit_slurm, "POLL_SECONDS", 0)
    monkeypatch.setattr(submitit_slurm, "SETTLE_SECONDS", 0)

    def submit(order, settings, numbers, after):
        submitted.append((numbers, list(after)))
        return {number: f"9_{place}" for place, number in enumerate(numbers)}

    monkeypatch.setattr(submitit_slurm, "_submit", submit)
    files[0].write(State("done", job="7"))
    ended = list(run(order(tmp_path, sweep, [1, 2, 3], [0], told=told), settings()))
    assert submitted == [([], []), ([2, 3], ["7"])]
    assert sorted(ended) == [0, 1, 2, 3]
    assert [state.standing for state in states(tmp_path, sweep)] == ["done", "failed", "failed", "failed"]
    assert "  Slurm holds job 8_0 back (JobHeldUser); scontrol release 8_0 lets it run" in told


def test_a_cell_that_two_commands_submitted_is_followed_in_the_job_that_runs_it(tmp_path, monkeypatch, squeue):
    squeue("")
    sweep = small_sweep(["a"])
    files = CellFiles(tmp_path, sweep, sweep.cells[0])
    monkeypatch.setattr(submitit_slurm, "POLL_SECONDS", 0)
    monkeypatch.setattr(submitit_slurm, "SETTLE_SECONDS", 0)

    def submit(order, settings, numbers, after):
        files.begin("8", 1)  # the job of another command began first
        return dict.fromkeys(numbers, "9")

    def standings(jobs):
        if jobs == ["8"]:
            files.write(files.read().ended("done"))
        return {"8": ("RUNNING", ""), "9": ("COMPLETED", "")}

    monkeypatch.setattr(slurm, "standings", standings)
    monkeypatch.setattr(submitit_slurm, "_submit", submit)
    assert list(run(order(tmp_path, sweep, [0]), settings())) == [0]
    assert (files.read().standing, files.read().reason) == ("done", None)


def test_jobs_stay_in_the_queue_when_the_command_is_ended(tmp_path, monkeypatch, squeue):
    squeue("")
    sweep, told = small_sweep(["a"]), []
    CellFiles(tmp_path, sweep, sweep.cells[0]).queue("8_0")
    monkeypatch.setattr(slurm, "standings", lambda jobs: {"8_0": ("RUNNING", "")})
    assert list(run(order(tmp_path, sweep, [0], stopped=lambda: True, told=told), settings())) == []
    assert told[-1] == "  1 jobs stay in Slurm's queue; scancel 8 ends them"


def test_a_machine_without_slurm_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="there is no sbatch on this machine"):
        next(run(order(tmp_path, small_sweep(["a"]), [0]), settings()))
