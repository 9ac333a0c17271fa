"""Several commands at once: one trains a run and the others are told; one makes what all need and the others wait."""

import json
import os
import re
import signal
import time
from dataclasses import asdict, replace

import pytest
from accelerate import Accelerator

from alignbench.configuration.build import run_name
from alignbench.configuration.compose import composed
from alignbench.errors import RunInUseError
from alignbench.stages.turns import turn
from alignbench.store import training_lock as module
from alignbench.store.training_lock import Holder, lock_file, training_lock
from alignbench.terminal.console import open_console
from alignbench.work_share import WorkShare
from benchmarks.faulty_runs import start
from tests.processes import together
from tests.program import alignbench, manifests

FIT = [
    "method=sft", "model=sd15_mini", "data.num_pairs=8", "train.max_train_steps=1", "train.total_batch_size=2",
    "train.micro_batch_size=2", "tracker=none", "stages=[train]",
]  # fmt: skip


@pytest.fixture
def other():
    """A process that is alive."""
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
        os._exit(0)
    yield replace(Holder.of_this_process(), pid=pid, process_start=module.psutil.Process(pid).create_time())
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def hold(run, holder):
    lock_file(run).parent.mkdir(parents=True, exist_ok=True)
    lock_file(run).write_text(json.dumps(asdict(holder)))


def ended():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def snapshot(root):
    return {str(path): path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file() and path.name != ".lock"}


# ---- the lock on training


def test_who_holds_the_lock_is_named_and_nothing_is_touched(tmp_path, other):
    hold(tmp_path / "run", other)
    before = snapshot(tmp_path)
    told = f"run is being trained by process {other.pid} on {other.host}, since {other.since} UTC; .*kill {other.pid}$"
    with pytest.raises(RunInUseError, match=told), training_lock(tmp_path / "run"):
        pytest.fail("two at once")
    assert snapshot(tmp_path) == before


def test_the_lock_goes_with_its_holder_however_it_ends(tmp_path):
    with training_lock(tmp_path / "run"):
        assert json.loads(lock_file(tmp_path / "run").read_text())["pid"] == os.getpid()
    with pytest.raises(KeyError), training_lock(tmp_path / "run"):
        raise KeyError
    assert not lock_file(tmp_path / "run").exists()
    assert not (tmp_path / "run").exists()  # nor does it make a folder of a run that may be refused


@pytest.mark.parametrize(
    ("changes", "is_gone"),
    [
        ({}, False),
        ({"pid": ended}, True),
        ({"process_start": 1.0}, True),  # the number belongs to another process now
        ({"host": "elsewhere"}, False),
        ({"host": "elsewhere", "pid": ended}, False),  # numbers of another machine say nothing here
        ({"namespace": "pid:[1]", "pid": ended}, False),  # nor do those of another container
        ({"boot": "before"}, True),  # this machine was started again
        ({"boot": "before", "machine": ""}, False),
        ({"boot": "before", "host": "elsewhere"}, False),
    ],
)
def test_a_lock_is_stale_only_if_its_holder_is_known_to_be_gone(changes, is_gone):
    own = replace(Holder.of_this_process(), machine="a machine")
    changes = {key: value() if callable(value) else value for key, value in changes.items()}
    assert replace(own, **changes).is_gone(own) == is_gone


@pytest.mark.parametrize(("job", "restarts", "is_gone"), [("7", 1, True), ("7", 0, False), ("8", 1, False)])
def test_a_slurm_job_that_starts_again_elsewhere_takes_its_own_lock(job, restarts, is_gone):
    own = Holder.of_this_process()
    before = replace(own, host="elsewhere", boot="x", machine="y", slurm_job="7", slurm_restarts=0)
    assert before.is_gone(replace(own, slurm_job=job, slurm_restarts=restarts)) == is_gone


def test_a_stale_lock_is_taken(tmp_path):
    hold(tmp_path / "run", replace(Holder.of_this_process(), pid=ended()))
    with training_lock(tmp_path / "run"):
        assert json.loads(lock_file(tmp_path / "run").read_text())["pid"] == os.getpid()


def test_of_another_machine_it_is_said_what_to_type(tmp_path):
    hold(tmp_path / "a run", replace(Holder.of_this_process(), host="elsewhere"))
    told = re.escape(f"If that process is gone, type: rm '{lock_file(tmp_path / 'a run')}'")
    with pytest.raises(RunInUseError, match=f"on elsewhere, since .* UTC; wait for it. {told}"):
        training_lock(tmp_path / "a run").__enter__()


@pytest.mark.parametrize(("text", "told"), [("", None), ('{"host": 1', "is damaged"), ("[]", "is damaged")])
def test_a_lock_that_a_kill_left_empty_is_taken_and_a_damaged_one_named(tmp_path, monkeypatch, text, told):
    monkeypatch.setattr(module, "EMPTY_SECONDS", 0.0)
    lock_file(tmp_path / "run").parent.mkdir()
    lock_file(tmp_path / "run").write_text(text)
    if told is None:
        with training_lock(tmp_path / "run"):
            return
    with pytest.raises(RunInUseError, match=told):
        training_lock(tmp_path / "run").__enter__()


def test_of_many_that_start_together_over_a_stale_lock_one_trains(tmp_path):
    hold(tmp_path / "run", replace(Holder.of_this_process(), pid=ended()))

    def contend(rank):
        try:
            with training_lock(tmp_path / "run"):
                time.sleep(1.0)
        except RunInUseError:
            return 0
        return 1

    assert sum(together(contend, num_processes=6)) == 1


# ---- commands


@pytest.fixture
def held(tmp_path, other):
    """The folder of the run of `FIT`, which another process trains."""
    run = tmp_path / run_name(composed(FIT))
    hold(run, other)
    return run


def test_the_second_command_is_refused_with_status_2(tmp_path, other, held):
    before = snapshot(tmp_path)
    done = alignbench(*FIT, f"results={tmp_path}", check=False)
    assert done.returncode == 2
    assert f"alignbench: {held} is being trained by process {other.pid} on" in done.stderr
    assert snapshot(tmp_path) == before


@pytest.mark.matrix
@pytest.mark.matrix
def test_other_runs_of_a_sweep_go_on(tmp_path, held):
    done = alignbench("-m", *FIT, "seed=0,1", f"results={tmp_path}", check=False)
    assert done.returncode == 2
    assert f"job 1 of 2 failed: {held} is being trained" in done.stderr
    assert ["train" in one["completed"] for one in manifests(tmp_path).values()] == [True]


def test_one_makes_what_two_need_and_the_other_waits_and_finds_it(tmp_path):
    made = tmp_path / "made"

    def make():
        with turn("generate", tmp_path, WorkShare(), Accelerator(cpu=True), open_console()):
            if not made.exists():
                time.sleep(2.0)
                made.touch()
                print("made")

    commands = [start((), tmp_path / "logs", program=make) for _ in range(2)]
    assert [command.wait() for command in commands] == [[0], [0]]
    said = sorted(command.told.splitlines() for command in commands)
    assert said == [[f"generate: waiting for another command that does this in {tmp_path}"], ["made"]]


def test_shards_fill_a_folder_together(tmp_path):
    accelerator, console = Accelerator(cpu=True), open_console(quiet=True)
    with (
        turn("generate", tmp_path, WorkShare(shard=1, num_shards=2), accelerator, console),
        turn("generate", tmp_path, WorkShare(shard=2, num_shards=2), accelerator, console),
    ):
        assert {path.name for path in tmp_path.iterdir()} == {".generate-1-of-2.lock", ".generate-2-of-2.lock"}
