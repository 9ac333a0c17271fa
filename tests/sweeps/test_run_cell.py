"""A cell ends as its own: a refusal, a kill or a signal becomes its state, with a reason and a log."""

import json
import os
import threading
import time

import pytest

from alignbench.sweeps.run_cell import run_cell
from alignbench.sweeps.state import LOST, LOST_SECONDS, CellFiles, State
from tests.sweeps.sweeps import run_programs, small_sweep, states

REFUSES = "import sys; print('at work'); sys.exit('alignbench: the run is damaged; restore it')"
WAITS = (
    "import signal, sys, time; n = []\n"
    "def stop(*_): n.append(1)\n"
    "signal.signal(signal.SIGTERM, stop); print('ready', flush=True)\n"
    "while not n: time.sleep(0.05)\n"
    "time.sleep(0.5); print(f'alignbench: {len(n)} signal'); sys.exit(143)"
)


@pytest.fixture(autouse=True)
def programs(monkeypatch):
    run_programs(monkeypatch)


def run(results, program, stopped=lambda: False, **options):
    sweep = small_sweep([program])
    state = run_cell(results, sweep, 0, 1, stopped, **options)
    files = CellFiles(results, sweep, sweep.cells[0])
    assert files.read() == state
    return state, files


def test_a_cell_that_ends_well_is_done_and_another_attempt_is_added_to_its_log(tmp_path):
    run(tmp_path, "print('first')")
    state, files = run(tmp_path, "print('second')")
    assert (state.standing, state.attempts, state.reason) == ("done", 2, None)
    assert files.log.read_text() == "--- attempt 1\nfirst\n--- attempt 2\nsecond\n"


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (REFUSES, "the run is damaged; restore it"),
        ("import os; os.kill(os.getpid(), 9)", "it was ended by SIGKILL; the machine may lack memory"),
        ("import sys; sys.exit(1)", "it ended with status 1"),
    ],
)
def test_a_failure_is_told_in_a_sentence(tmp_path, program, reason):
    state, _ = run(tmp_path, program)
    assert (state.standing, state.reason) == ("failed", reason)


def test_a_cell_is_told_once_to_end_and_waited_for(tmp_path):
    log = tmp_path / "sweeps" / "small" / "1-seed0.log"
    state, _ = run(tmp_path, WAITS, stopped=lambda: "ready" in log.read_text())
    assert (state.standing, state.reason) == ("pre-empted", "1 signal")


def test_signals_that_a_queue_sends_to_all_processes_do_not_reach_the_cell(tmp_path):
    program = "import os, signal; [os.kill(os.getpid(), s) for s in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)]"
    assert run(tmp_path, program)[0].standing == "done"


def test_a_cell_sees_the_gpus_that_it_was_given(tmp_path):
    _, files = run(tmp_path, "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])", devices=["2", "3"])
    assert files.log.read_text().endswith("\n2,3\n")


def test_several_processes_of_a_cell_are_started_by_torchrun(monkeypatch):
    monkeypatch.undo()
    from alignbench.sweeps.run_cell import _command

    cells = small_sweep(["seed=0"], base="seed=0").cells
    assert _command(cells[1], 1)[1:] == ["-m", "alignbench", "seed=0"]
    assert _command(cells[0], 1)[1:] == ["-m", "alignbench.sweeps.base_run", "seed=0"]
    several = _command(cells[1], 2)
    assert several[1:6] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    assert several[-3:] == ["-m", "alignbench", "seed=0"]


def test_a_cell_that_another_command_runs_is_left_to_it(tmp_path):
    sweep, told = small_sweep(["import time; time.sleep(1.5)"]), []
    first = threading.Thread(target=run_cell, args=(tmp_path, sweep, 0, 1, lambda: False))
    first.start()
    while states(tmp_path, sweep)[0].standing != "running":
        time.sleep(0.05)
    told.append(run_cell(tmp_path, sweep, 0, 1, lambda: False))
    first.join()
    assert "is being run by another command" in told[0].reason
    assert (states(tmp_path, sweep)[0].standing, states(tmp_path, sweep)[0].attempts) == ("done", 1)


def running(tmp_path, **holder):
    sweep = small_sweep(["a"])
    files = CellFiles(tmp_path, sweep, sweep.cells[0])
    files.begin("7", 2)
    values = json.loads(files.state_file.read_text())
    del values["check"]
    values["holder"] |= holder
    files.write(State(**values))
    return files


def test_a_cell_whose_process_is_gone_has_failed(tmp_path):
    assert running(tmp_path / "alive").read().standing == "running"
    gone = running(tmp_path / "gone", pid=2**22 + 1).read()
    assert (gone.standing, gone.reason) == ("failed", LOST)


def test_a_cell_of_another_machine_has_failed_if_it_gives_no_sign(tmp_path, monkeypatch):
    files = running(tmp_path, host="elsewhere", machine="other")
    assert files.read().standing == "running"
    now = time.time()
    monkeypatch.setattr("alignbench.sweeps.state.time.time", lambda: now + LOST_SECONDS + 1)
    assert files.read().standing == "failed"


def test_a_job_that_was_put_back_into_the_queue_takes_its_cell_again(tmp_path):
    files = running(tmp_path, host="elsewhere", machine="other")
    assert files.begin("7", 2).attempts == 2


def test_seconds_of_all_attempts_are_added_up(monkeypatch):
    clock = iter([110.0, 110.0])
    monkeypatch.setattr("alignbench.sweeps.state.time.time", lambda: next(clock, 999.0))
    ended = State("running", since=100.0, seconds=5.0).ended("pre-empted")
    assert (ended.seconds, ended.ran) == (15.0, 15.0)


@pytest.mark.parametrize(("standing", "job"), [("running", "8"), ("waiting", "8"), ("running", None)])
def test_a_job_that_ended_says_nothing_of_a_cell_that_another_one_has_by_now(tmp_path, standing, job):
    sweep = small_sweep(["a"])
    files = CellFiles(tmp_path, sweep, sweep.cells[0])
    files.write(State(standing, time.time(), job=job))
    files.fail("7", LOST)
    assert files.read().standing == standing
    files.fail(job, LOST)
    assert files.read().standing == "failed"


def test_a_cell_gives_signs_of_life_after_its_files_were_deleted(tmp_path, monkeypatch):
    monkeypatch.setattr("alignbench.sweeps.state.BEAT_SECONDS", 0.01)
    sweep = small_sweep(["a"])
    files = CellFiles(tmp_path, sweep, sweep.cells[0])
    begun = files.begin(None, 1)
    with files.beating():
        files.state_file.unlink()
        time.sleep(0.05)
        files.write(begun)
        os.utime(files.state_file, (0, 0))
        deadline = time.monotonic() + 5
        while files.state_file.stat().st_mtime == 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.parametrize("seconds", ["NaN", "Infinity", "-1.0"])
def test_a_state_with_times_that_cannot_be_is_damaged(tmp_path, seconds):
    sweep = small_sweep(["a"])
    files = CellFiles(tmp_path, sweep, sweep.cells[0])
    files.write(State("running", time.time(), seconds=float(seconds)))
    assert "has a wrong entry seconds" in files.read().reason
