"""Cells side by side: bases first, no failure ends another cell, GPUs are shared out, a signal ends all with grace."""

import os
import signal

import pytest

from alignbench.errors import StopRequested, UserError
from alignbench.settings.launchers import OfThisMachine
from alignbench.sweeps.launch import launch, launcher_settings
from alignbench.sweeps.launchers import this_machine
from alignbench.sweeps.launchers.this_machine import device_groups
from alignbench.sweeps.state import CellFiles
from alignbench.terminal.signals import handled
from tests.sweeps.sweeps import order, run_programs, small_sweep, states
from tests.sweeps.test_run_cell import REFUSES, WAITS

SETTINGS = OfThisMachine(n_jobs=2, processes=1)
DIES = "import os; os.kill(os.getppid(), 0); os.kill(os.getpid(), 9)"


@pytest.fixture(autouse=True)
def programs(monkeypatch):
    run_programs(monkeypatch)
    monkeypatch.setattr(this_machine, "visible_gpus", list)


def run(results, sweep, only_failed=False, made=(), settings=SETTINGS):
    told = []
    launch(results, sweep, settings, made, only_failed, told.append)
    return "\n".join(told)


def test_no_failure_ends_the_other_cells_and_each_is_told_with_its_reason_and_log(tmp_path):
    sweep = small_sweep([REFUSES, DIES, "pass", "pass"])
    told = run(tmp_path, sweep)
    assert [state.standing for state in states(tmp_path, sweep)] == ["failed", "failed", "done", "done"]
    assert f"  failed      seed=0  {tmp_path}/sweeps/small/1-seed0.log\n" in told
    assert "the run is damaged; restore it" in told
    assert "2 of 4 done, 2 failed; this job took" in told


def test_what_is_done_is_not_repeated_and_a_retry_runs_only_what_failed(tmp_path):
    sweep = small_sweep(["print('again')", REFUSES])
    (tmp_path / "run0").mkdir()
    (tmp_path / "run0" / "manifest.json").touch()
    run(tmp_path, sweep)
    assert "1 of 2 jobs are left" in run(tmp_path, sweep)
    run(tmp_path, sweep, only_failed=True)
    assert [state.attempts for state in states(tmp_path, sweep)] == [1, 3]
    (tmp_path / "run0" / "manifest.json").unlink()
    run(tmp_path, sweep, only_failed=True)
    assert [state.attempts for state in states(tmp_path, sweep)] == [1, 4], "a retry is about failures alone"
    run(tmp_path, sweep)
    assert states(tmp_path, sweep)[0].attempts == 2, "its run folder is gone"


def test_a_damaged_state_is_of_one_cell_and_is_written_anew(tmp_path):
    sweep = small_sweep(["pass", "pass"])
    run(tmp_path, sweep)
    file = CellFiles(tmp_path, sweep, sweep.cells[0]).state_file
    file.write_text(file.read_text().replace("done", "lost"))
    assert "has changed since it was written" in states(tmp_path, sweep)[0].reason
    run(tmp_path, sweep, only_failed=True)
    assert [state.standing for state in states(tmp_path, sweep)] == ["done", "done"]


def test_base_runs_come_before_the_others_and_not_again(tmp_path):
    slow = "import time, pathlib; time.sleep(0.6); pathlib.Path(r'{0}').touch()"
    needs = "import pathlib, sys; sys.exit(not pathlib.Path(r'{0}').exists())"
    made = tmp_path / "made"
    sweep = small_sweep([needs.format(made)] * 2, base=slow.format(made))
    run(tmp_path, sweep)
    assert [state.standing for state in states(tmp_path, sweep)] == ["done"] * 3
    (tmp_path / "other" / "base").mkdir(parents=True)
    (tmp_path / "other" / "base" / "manifest.json").touch()
    run(tmp_path / "other", sweep, made=["base"])
    assert [state.attempts for state in states(tmp_path / "other", sweep)] == [0, 1, 1], "its images were there"


def test_every_cell_has_gpus_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(this_machine, "visible_gpus", lambda: ["4", "5", "6", "7", "8"])
    settings = OfThisMachine(n_jobs=None, processes=2)
    assert device_groups(settings) == [["4", "5"], ["6", "7"]]
    shows = "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES']); time.sleep(0.4)"
    sweep = small_sweep([shows] * 4)
    assert sorted(this_machine.run(order(tmp_path, sweep, range(4)), settings)) == [0, 1, 2, 3]
    logs = [CellFiles(tmp_path, sweep, cell).log.read_text().split()[-1] for cell in sweep.cells]
    assert sorted(logs) == ["4,5", "4,5", "6,7", "6,7"]
    with pytest.raises(UserError, match="processes=6 needs as many GPUs, and this machine shows 5"):
        device_groups(OfThisMachine(n_jobs=None, processes=6))


def test_a_signal_lets_cells_write_their_checkpoints_and_begins_no_other(tmp_path):
    sweep = small_sweep([f"import os, signal; os.kill({os.getpid()}, signal.SIGTERM)\n{WAITS}", WAITS, WAITS])
    with pytest.raises(StopRequested), handled():
        run(tmp_path, sweep, settings=OfThisMachine(n_jobs=1, processes=1))
    assert [state.standing for state in states(tmp_path, sweep)] == ["pre-empted", "waiting", "waiting"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize(
    ("name", "values", "told"),
    [
        ("rq", {}, "hydra/launcher=rq is unknown; available: basic, joblib, submitit_local, submitit_slurm, ray"),
        ("joblib", {"n_jobs": 0, "processes": 1}, "hydra.launcher.n_jobs=0 must be a whole number of at least 1"),
        ("joblib", {"n_jobs": 1, "processes": "x"}, "hydra.launcher.processes=x must be a whole number of at least 1"),
    ],
)
def test_launchers_and_settings_that_do_not_exist_are_refused(name, values, told):
    with pytest.raises(UserError) as refused:
        launcher_settings(name, values)
    assert str(refused.value).startswith(told)
