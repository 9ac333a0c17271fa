"""A signal ends a command where nothing is lost: with a checkpoint in training, with what is done elsewhere."""

import itertools
import os
import signal
import sys
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from alignbench import cli
from alignbench.cli import _left
from alignbench.errors import StopRequested
from alignbench.generation import image_writer
from alignbench.models.tiny_random import tiny_adapter
from alignbench.store.run_folder import RunFolder
from alignbench.terminal import endings, signals
from alignbench.terminal.endings import stop_by_signal
from alignbench.terminal.signals import SIGNALS, handled, noted
from alignbench.training.train import train
from methods.sft import SFT
from tests.processes import FSDP2, together
from tests.program import alignbench, manifests
from tests.tiny_runs import RandomPairs, files_of, log_of, settings, sft

FIT = [
    "method=sft", "model=sd15_mini", "data.num_pairs=16", "train.max_train_steps=4", "train.total_batch_size=2",
    "train.micro_batch_size=2", "tracker=none", "stages=[train]",
]  # fmt: skip
NEVER = {"checkpointing_steps": 100, "checkpointing_minutes": None}


class AtUpdate:
    """Wraps a method so that something happens in one update, before its loss."""

    def __init__(self, method, step, act):
        self.method, self.step, self.act = method, step, act

    def __getattr__(self, name):
        return getattr(self.method, name)

    def loss(self, model, batch, context):
        if context.step == self.step:
            self.act()
        return self.method.loss(model, batch, context)


def fit(path, method, **changes):
    cfg = settings(**NEVER | changes)
    return train(cfg, tiny_adapter("flux"), method, RandomPairs(), RunFolder(path), Accelerator(cpu=True))


def sends(signum):
    return lambda: os.kill(os.getpid(), signum)


def steps(path):
    return sorted(folder.name for folder in (path / "checkpoints").iterdir())


# ---- training


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_ends_the_update_with_a_checkpoint_that_training_goes_on_from(tmp_path, signum):
    with handled(), pytest.raises(StopRequested) as stopped:
        fit(tmp_path / "stopped", AtUpdate(sft(), 1, sends(signum)))
    assert stopped.value.exit_status == 128 + signum
    assert steps(tmp_path / "stopped") == ["step-2"]  # the update in which it came was made
    if signum != signal.SIGTERM:
        return
    fit(tmp_path / "stopped", sft())
    fit(tmp_path / "whole", sft())
    assert files_of(tmp_path / "stopped" / "policy") == files_of(tmp_path / "whole" / "policy")
    assert log_of(tmp_path / "stopped") == log_of(tmp_path / "whole")


@pytest.mark.parametrize("environment", [{}, pytest.param(FSDP2, marks=pytest.mark.matrix)], ids=["ddp", "fsdp2"])
def test_a_signal_to_one_of_two_processes_ends_both_after_the_same_update(tmp_path, environment):
    def one(rank, path, method):
        with handled():
            try:
                fit(path, method(rank))
            except StopRequested as stopped:
                return stopped.exit_status
        return 0

    def only_to_the_second(rank):
        return AtUpdate(sft(), 1, sends(signal.SIGTERM)) if rank == 1 else sft()

    assert together(one, tmp_path / "stopped", only_to_the_second, environment=environment) == [143, 143]
    assert steps(tmp_path / "stopped") == ["step-2"]
    for name in ("stopped", "whole"):
        assert together(one, tmp_path / name, lambda rank: sft(), environment=environment) == [0, 0]
    assert files_of(tmp_path / "stopped" / "policy") == files_of(tmp_path / "whole" / "policy")


def test_without_a_program_ctrl_c_interrupts_at_once_as_in_a_notebook(tmp_path):
    with pytest.raises(KeyboardInterrupt) as stopped:
        fit(tmp_path, AtUpdate(sft(), 1, sends(signal.SIGINT)))
    assert type(stopped.value) is KeyboardInterrupt
    assert not (tmp_path / "checkpoints").exists()


def test_a_handler_that_was_there_before_decides_when_the_checkpoint_is_written(tmp_path):
    """As submitit's, which puts the job back into the queue and exits, or passes SIGTERM over."""
    called = []

    def other(signum, frame):
        called.append((signum, steps(tmp_path)))
        if signum == signal.SIGUSR2:
            sys.exit(7)

    before = {one: signal.signal(one, other) for one in (signal.SIGUSR2, signal.SIGTERM)}
    try:
        sends_both = AtUpdate(AtUpdate(sft(), 2, sends(signal.SIGUSR2)), 0, sends(signal.SIGTERM))
        with handled(), pytest.raises(SystemExit) as ended:
            fit(tmp_path, sends_both)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    assert ended.value.code == 7
    assert called == [(signal.SIGTERM, ["step-1"]), (signal.SIGUSR2, ["step-1", "step-3"])]


def test_checkpoints_come_by_time_as_well(tmp_path, monkeypatch):
    clock = iter(range(0, 100000, 50))  # seconds; one update takes two looks at the clock at most
    monkeypatch.setattr("alignbench.training.train.time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    kept = []
    monkeypatch.setattr(
        "alignbench.training.checkpoint.Checkpoints.save",
        lambda self: (
            kept.append(self.progress.step),
            setattr(self, "_last", type(self.progress)(**vars(self.progress))),
        ),
    )
    fit(tmp_path, sft(), max_train_steps=7, checkpointing_minutes=2.4, logging_steps=100)
    assert kept == [3, 6]  # 50 s an update: 150 s after three of them, at a limit of 144 s


# ---- the command


@pytest.fixture
def at_update(monkeypatch):
    loss = SFT.loss

    def install(step, act):
        def changed(self, model, batch, context):
            if context.step == step:
                act()
            return loss(self, model, batch, context)

        monkeypatch.setattr(SFT, "loss", changed)

    return install


def test_the_command_says_how_to_go_on_and_exits_with_143(at_update, tmp_path):
    at_update(0, sends(signal.SIGTERM))
    done = alignbench(*FIT, f"results={tmp_path}", check=False)
    assert done.returncode == 143
    (name,) = manifests(tmp_path)
    assert done.stderr.strip().splitlines()[-1] == (
        f"alignbench: stopped by SIGTERM; {tmp_path / name} keeps the checkpoint of update 1; go on by: python -m "
        f"alignbench {' '.join(FIT[:-1])} 'stages=[train]' results={tmp_path}"
    )
    assert list((tmp_path / ".locks").glob("*.json")) == []


def test_a_sweep_ends_as_a_whole_and_names_what_was_not_begun(at_update, tmp_path):
    at_update(1, sends(signal.SIGTERM))
    done = alignbench("-m", *FIT, "seed=0,1,2", f"results={tmp_path}", check=False)
    assert done.returncode == 143
    assert "stopped by SIGTERM; job 1 of 3: " in done.stderr
    assert "keeps the checkpoint of update 2; not begun: seed=1, seed=2; go on by" in done.stderr
    assert len(manifests(tmp_path)) == 1


def test_many_jobs_that_are_left_are_counted():
    assert _left([f"seed={n}" for n in range(9)]).endswith("seed=4, seed=5 and 3 more")
    assert _left([]) == ""


@pytest.mark.matrix
def test_images_that_are_made_stay_and_the_rest_follows(tmp_path, monkeypatch):
    command = [
        "method=base", "model=sd15_mini", "prompts.limit=4", "sampling.num_inference_steps=1", "sampling.batch_size=1",
        "stages=[generate]", "tracker=none", f"results={tmp_path}",
    ]  # fmt: skip
    write, calls = image_writer.write_png, itertools.count(1)

    def second_is_interrupted(path, picture):
        if next(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        write(path, picture)

    with monkeypatch.context() as patch:
        patch.setattr(image_writer, "write_png", second_is_interrupted)
        done = alignbench(*command, check=False)
    assert done.returncode == 143
    assert "Traceback" not in done.stderr
    assert "stopped by SIGTERM; " in done.stderr
    assert "keeps the images and scores that were finished" in done.stderr
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    assert len(made) >= 2  # that which was being written, too
    alignbench(*command)
    assert len(list(tmp_path.rglob("*.png"))) == 4
    assert made == {path: path.stat().st_mtime_ns for path in made}


# ---- the handler


def test_a_second_signal_ends_at_once(tmp_path):
    """In a forked process, which `os._exit` really ends."""
    pid = os.fork()
    if pid == 0:
        signals.SAME_SIGNAL_SECONDS = 0.0
        os.environ.pop("RANK", None)
        sys.__stderr__ = (tmp_path / "said").open("w")
        with handled(), noted():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        os._exit(99)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 130
    said = (tmp_path / "said").read_text()
    assert "ending after this update, with a checkpoint; a second signal ends at once" in said
    assert "the same command goes on from there" in said


def test_the_same_press_of_ctrl_c_that_comes_twice_is_one():
    with handled(), noted() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.agree(stop.counts)
        with pytest.raises(StopRequested):
            stop.act()


def test_signals_that_are_ignored_stay_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with handled():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_processes_agree_on_a_signal_that_any_of_them_got():
    with noted() as stop:
        assert stop.counts == [0] * len(SIGNALS)
        assert not stop.agree([0.0] * len(SIGNALS))
        assert stop.agree([0.0, 2.0, 0.0, 0.0, 0.0])
        with pytest.raises(StopRequested, match=str(int(signal.SIGTERM))):
            stop.act()


def test_workers_that_read_data_leave_signals_to_the_program():
    loader = torch.utils.data.DataLoader(range(8), num_workers=1, worker_init_fn=signals.leave_signals_to_the_program)
    batches = iter(loader)
    next(batches)
    (worker,) = batches._workers
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        os.kill(worker.pid, signum)
    assert len(list(batches)) == 7


# ---- Slurm


@pytest.mark.parametrize(("status", "said"), [(0, ""), (1, "Job may not be requeued"), (None, "there is no scontrol")])
def test_slurm_is_asked_to_start_the_job_again(monkeypatch, capsys, tmp_path, status, said):
    asked = tmp_path / "asked"
    if status is not None:
        scontrol = tmp_path / "scontrol"
        scontrol.write_text(f"#!/bin/sh\necho $* >> {asked}\necho {said} >&2\nexit {status}\n")
        scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "123")
    with pytest.raises(SystemExit) as ended:
        stop_by_signal(StopRequested(signal.SIGUSR1), "x keeps y", ["method=sft"], requeues=True)
    assert ended.value.code == 138
    told = capsys.readouterr().err
    assert "stopped by SIGUSR1; x keeps y; Slurm is asked to put job 123 back into its queue" in told
    assert ("submit it once more" in told) == (status != 0)
    assert said in told
    if status is not None:
        assert asked.read_text() == "requeue 123\n"


@pytest.mark.parametrize("requeues", [True, False])
def test_slurm_is_asked_also_while_the_command_is_checked(monkeypatch, requeues):
    """Its libraries may take longer to load from a busy disk than is left of the job's time."""
    asked = []
    monkeypatch.setattr(endings.slurm, "requeue", asked.append)
    monkeypatch.setenv("SLURM_JOB_ID", "123")
    monkeypatch.setattr(cli, "checked_jobs", lambda *_: sends(signal.SIGUSR1)())
    done = alignbench(*FIT, f"requeue={str(requeues).lower()}", check=False)
    assert done.returncode == 138
    assert "stopped by SIGUSR1; nothing was begun" in done.stderr
    assert asked == ["123"] * requeues


@pytest.mark.parametrize(
    ("signum", "requeues", "job"),
    [(signal.SIGTERM, True, "123"), (signal.SIGUSR1, False, "123"), (signal.SIGUSR1, True, None)],
)
def test_slurm_is_not_asked_otherwise(monkeypatch, capsys, signum, requeues, job):
    monkeypatch.setattr(endings.slurm, "requeue", lambda job: pytest.fail("asked"))
    if job is None:
        monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    else:
        monkeypatch.setenv("SLURM_JOB_ID", job)
    with pytest.raises(SystemExit) as ended:
        stop_by_signal(StopRequested(signum), "x keeps y", ["method=sft"], requeues=requeues)
    assert ended.value.code == 128 + signum
    assert "go on by: python -m alignbench method=sft" in capsys.readouterr().err
