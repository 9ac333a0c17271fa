"""A table is read from the folder alone: what is missing, how long it takes and what it cost, by hand."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from alignbench.errors import UserError
from alignbench.sweeps.__main__ import chosen, retry, show
from alignbench.sweeps.ownership import signature
from alignbench.sweeps.record import Sweep
from alignbench.sweeps.standing import Row, seconds_left, standing_of, summary
from alignbench.sweeps.state import CellFiles, State
from alignbench.sweeps.table import print_table
from tests.sweeps.sweeps import small_sweep

NOW = 1e9


def row(standing, ran=0.0, left=None, attempts=1):
    is_running = standing == "running"
    state = State(standing, NOW - ran, 0.0 if is_running else ran, attempts=attempts)
    return Row(None, standing, state, "", left, None)


@pytest.mark.parametrize(
    ("rows", "left"),
    [
        ([row("running", left=30.0)], 30.0),
        ([row("running", left=30.0), row("running", left=50.0)], 50.0),  # the slower one ends last
        ([row("done", 100.0), row("running", left=40.0), row("waiting")], 140.0),
        ([row("done", 100.0), row("running", left=40.0), row("running", left=20.0), *[row("waiting")] * 3], 180.0),
        ([row("done", 60.0), row("done", 100.0), row("running", ran=20.0), row("waiting")], 140.0),  # 80 s each
        ([row("running", left=30.0), row("waiting")], None),  # nobody knows how long that one takes
        ([row("done", 60.0), row("running", ran=70.0)], None),  # longer than the other one
        ([row("done", 5.0), row("failed", 9.0)], None),
    ],
)
def test_the_time_left_is_that_of_cells_that_run_side_by_side(rows, left, monkeypatch):
    monkeypatch.setattr("alignbench.sweeps.state.time.time", lambda: NOW)
    assert seconds_left(rows) == (None if left is None else pytest.approx(left, abs=1e-3))


def test_a_sweep_is_summed_up_in_a_line():
    rows = [row("done", 100.0), row("running", left=40.0), row("waiting"), row("failed"), row("pre-empted")]
    assert summary(rows) == "1 of 5 done, 1 waiting, 1 running, 1 failed, 1 pre-empted; about 4 min 00 s left"


def printed(root, sweep, width=110):
    console = Console(file=StringIO(), width=width, highlight=False)
    print_table(root, sweep, console)
    return console.file.getvalue()


@pytest.fixture
def sweep(tmp_path) -> Sweep:
    """A sweep of five cells: done, running at update 4 of 10, failed, stopped, and one that never began."""
    sweep = small_sweep(["a"] * 5)
    sweep.write(tmp_path)
    one, two, three, four, _ = (CellFiles(tmp_path, sweep, cell) for cell in sweep.cells)
    one.write(State("done", seconds=3600.0, devices=2, attempts=1))
    running = two.begin("7_1", 1)
    two.write(replace(running, since=time.time() - 40, first_update=0))
    three.write(State("failed", seconds=1.0, attempts=1, reason="the disk is full"))
    three.log.write_text("told")
    four.write(State("pre-empted", seconds=1.0, attempts=1, reason="stopped by SIGTERM"))
    run = tmp_path / "run1"
    run.mkdir()
    (run / "manifest.json").write_text(json.dumps({"completed": {}}))
    (run / "train.jsonl").write_text('{"step": 3}\n{"step": 4}\n{"st')
    return sweep


def test_the_table_shows_every_cell_and_names_what_is_missing(tmp_path, sweep):
    lines = [line.split() for line in printed(tmp_path, sweep).splitlines()]
    assert ["seed=0", "done", "start", "2.000", "1-seed0"] in lines
    assert ["seed=1", "running", "train", "4/10", "1", "min", "00", "s", "0.011", "7_1", "2-seed1"] in lines
    assert ["seed=4", "waiting", "5-seed4"] in lines
    told = " ".join(printed(tmp_path, sweep, width=300).split())
    assert f"seed=2: failed: the disk is full; log: {tmp_path}/sweeps/small/3-seed2.log" in told
    assert "seed=3: pre-empted: stopped by SIGTERM" in told
    assert "1 of 5 done, 1 waiting, 1 running, 1 failed, 1 pre-empted" in told


def test_what_others_wrote_moves_no_cursor(tmp_path, sweep):
    foreign = replace(
        sweep, launcher="jo\x1b[2Jblib", started="2026\x1b[1m", cells=[replace(sweep.cells[2], name="a\x1b[31m")]
    )
    CellFiles(tmp_path, foreign, foreign.cells[0]).write(
        State("failed", reason="why\x1b[2J", job="7\x1b[H", attempts=1)
    )
    assert "\x1b" not in printed(tmp_path, foreign)
    assert "a?[31m: failed: why?[2J" in printed(tmp_path, foreign)


def test_damaged_states_and_runs_take_out_nothing_else(tmp_path, sweep):
    CellFiles(tmp_path, sweep, sweep.cells[0]).state_file.write_text("{")
    (tmp_path / "run1" / "train.jsonl").write_bytes(b"\xff\n")
    (tmp_path / "run1" / "manifest.json").write_text("[]")
    rows = standing_of(tmp_path, sweep)
    assert [one.standing for one in rows] == ["failed", "running", "failed", "pre-empted", "waiting"]
    assert "is not JSON" in rows[0].state.reason


def test_a_second_shell_shows_the_same_at_once_and_loads_little(tmp_path, sweep):
    code = (
        "import sys; from alignbench.sweeps.__main__ import main; main(); "
        "sys.exit(' '.join({'torch', 'numpy', 'pandas', 'hydra', 'omegaconf'} & {*sys.modules}) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "sweep small  hydra/launcher=joblib, begun 2026-01-31 18:05 UTC" in done.stdout


def test_a_watched_table_is_shown_until_nothing_goes_on_by_itself(tmp_path, monkeypatch):
    sweep = small_sweep(["a"] * 3)
    sweep.write(tmp_path)
    waiting, requeued, stopped = (CellFiles(tmp_path, sweep, cell) for cell in sweep.cells)
    requeued.write(State("pre-empted", job="7_1", attempts=1))
    stopped.write(State("pre-empted", attempts=1))  # by its command, which goes on only if it is typed again
    events = [lambda: waiting.write(State("done", attempts=1)), lambda: requeued.write(State("done", attempts=2))]
    monkeypatch.setattr("alignbench.sweeps.__main__.time.sleep", lambda _: events.pop(0)())
    console = Console(file=StringIO(), width=110, highlight=False)
    show(tmp_path, [sweep], console, watch=True)
    assert events == []
    assert "2 of 3 done, 1 pre-empted" in console.file.getvalue()


def test_several_sweeps_lie_in_one_folder_and_one_is_chosen_by_name(tmp_path, sweep):
    replace(sweep, name="other", started="2026-01-30 09:00").write(tmp_path)
    assert [one.name for one in chosen(tmp_path, None)[0]] == ["other", "small"]
    assert [one.name for one in chosen(tmp_path, "small")[0]] == ["small"]
    with pytest.raises(UserError, match="--sweep smal is unknown; did you mean small"):
        chosen(tmp_path, "smal")


def test_a_retry_is_the_command_of_the_sweep_for_what_failed(tmp_path, sweep, monkeypatch):
    begun = []
    monkeypatch.setattr("alignbench.sweeps.__main__.os.execv", lambda *given: begun.append(given))
    command = ["-m", "seed=0,1", f"results='{tmp_path}'"]
    sweep = replace(sweep, command=command, signed=signature(command, sweep.folder))
    retry(tmp_path, [sweep])
    assert begun == [(sys.executable, [sys.executable, "-m", "alignbench", *command, "--failed"])]
    CellFiles(tmp_path, sweep, sweep.cells[2]).write(State("done"))
    with pytest.raises(UserError, match="no cell has failed"):
        retry(tmp_path, [sweep])


def test_a_retry_does_not_write_to_the_folder_that_the_results_were_moved_from(tmp_path, sweep, monkeypatch):
    monkeypatch.setattr("alignbench.sweeps.__main__.os.execv", lambda *_: pytest.fail("it ran"))
    with pytest.raises(
        UserError, match=rf"writes to .*/results, and not to {tmp_path}; .* results={tmp_path} --failed$"
    ):
        retry(tmp_path, [sweep])


@pytest.mark.parametrize("change", [{"signed": ""}, {"command": ["-m", "method._target_=os.system"]}, {"folder": "/"}])
def test_a_command_that_this_user_did_not_type_is_shown_and_not_run(tmp_path, sweep, monkeypatch, change):
    monkeypatch.setattr("alignbench.sweeps.__main__.os.execv", lambda *_: pytest.fail("it ran"))
    foreign = replace(sweep, **change)
    with pytest.raises(UserError, match=r"was not started by you .* type: python -m alignbench -m .* --failed"):
        retry(tmp_path, [foreign])


def test_a_folder_without_sweeps_is_named(tmp_path):
    with pytest.raises(UserError, match="holds no sweep"):
        chosen(tmp_path, None)
    with pytest.raises(UserError, match="does not exist"):
        chosen(tmp_path / "none", None)
