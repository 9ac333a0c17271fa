"""Checkpoints in the background: the same files, of the update at which they were due, and never half of one."""

import errno
import os
import resource
import signal
import threading
import time

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from alignbench.configuration.build import run_name
from alignbench.configuration.compose import composed
from alignbench.errors import StopRequested
from alignbench.models.tiny_random import tiny_adapter
from alignbench.store.checkpoint_files import damaged_file
from alignbench.store.run_folder import RunFolder
from alignbench.terminal.signals import handled
from alignbench.training import background_write, checkpoint
from alignbench.training.background_write import BackgroundWrite, MainMemory
from alignbench.training.checkpoint import Checkpoints, Counters
from alignbench.training.train import train
from benchmarks.faulty_runs import kill, start
from tests.faults.test_signals import AtUpdate
from tests.processes import FSDP2, together
from tests.tiny_runs import RandomPairs, files_of, log_of, settings, sft

SLOW = 0.3  # seconds


def fit(path, method, **changes):
    cfg = settings(**{"checkpoints_in_background": True, "checkpointing_minutes": None} | changes)
    return train(cfg, tiny_adapter("flux"), method, RandomPairs(), RunFolder(path), Accelerator(cpu=True))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class Kept:
    """A state of tensors that share memory, and of one object in two places."""

    def __init__(self):
        whole = torch.arange(12.0)
        note = {"rate": 0.1}
        self.state = {"view": whole[2:7], "transposed": whole.view(3, 4).t(), "notes": [note, note], "none": None}
        self.state |= {"empty": torch.empty(0, 3), "half": torch.ones(5, dtype=torch.bfloat16), "name": "view"}
        self.state["again"] = self.state["view"]

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state


class Trained:
    """A network and an optimizer that has stepped, with their checkpoints."""

    def __init__(self, folder, in_background, accelerator=None):
        torch.manual_seed(0)
        self.network, self.kept, self.progress = nn.Linear(30, 20), Kept(), Counters()
        self.optimizer = torch.optim.AdamW(self.network.parameters())
        parts = {"optimizer": self.optimizer, "kept": self.kept}
        self.checkpoints = Checkpoints(
            folder,
            accelerator or Accelerator(cpu=True),
            self.progress,
            {"policy": self.network},
            parts,
            {"shard": Kept()},
            in_background,
        )

    def update(self):
        for parameter in self.network.parameters():
            parameter.grad = torch.full_like(parameter, 0.1)
        self.optimizer.step()
        for tensor in (self.kept.state["view"], self.kept.state["half"]):
            tensor.add_(1)
        self.progress.step += 1


@pytest.fixture
def held(monkeypatch):
    """Let threads write only once the event is set; main threads write at once."""
    event, write = threading.Event(), checkpoint.save_state

    def waits(state, file):
        assert threading.current_thread() is threading.main_thread() or event.wait(60)
        write(state, file)

    monkeypatch.setattr(checkpoint, "save_state", waits)
    yield event
    event.set()


# ---- what is written


def test_files_equal_those_of_the_foreground_while_training_changes_the_state(tmp_path, held):
    expected, trained = (Trained(tmp_path / name, name == "back") for name in ("front", "back"))
    for _ in range(3):
        held.clear()
        for one in (expected, trained):
            one.update()
            one.checkpoints.save()
        assert "partial" in names(tmp_path / "back")
        random_numbers = torch.get_rng_state()
        torch.rand(3)
        trained.network.weight.data.mul_(2)  # what is written is a copy
        trained.kept.state["notes"][0]["rate"] = 9.0
        held.set()
        trained.checkpoints.finish()
        trained.network.weight.data.div_(2)
        trained.kept.state["notes"][0]["rate"] = 0.1
        torch.set_rng_state(random_numbers)
    assert names(tmp_path / "back") == ["step-2", "step-3"]
    assert files_of(tmp_path / "back") == files_of(tmp_path / "front")


def test_main_memory_is_taken_once():
    memory, state = MainMemory(pinned=False), {"a": torch.rand(100), "b": torch.rand(1000, 1000)}
    first = memory.copy(state)
    taken, place = memory.num_bytes, first["b"].data_ptr()
    state["b"].zero_()
    assert first["b"].any()
    second = memory.copy(state)
    assert (memory.num_bytes, second["b"].data_ptr()) == (taken, place)
    assert not second["b"].any()
    memory.copy({"large": torch.empty(background_write.BLOCK_BYTES + 1, dtype=torch.uint8)})
    assert memory.num_bytes == taken + background_write.BLOCK_BYTES + 1


def test_a_run_and_its_name_do_not_depend_on_it(tmp_path):
    command = ["method=sft", "model=sd15_mini"]
    assert run_name(composed([*command, "train.checkpoints_in_background=true"])) == run_name(composed(command))
    for in_background in (True, False):
        fit(tmp_path / str(in_background), sft(), checkpointing_steps=1, checkpoints_in_background=in_background)
    assert names(tmp_path / "True" / "checkpoints") == names(tmp_path / "False" / "checkpoints") == ["step-2", "step-3"]
    assert files_of(tmp_path / "True" / "policy") == files_of(tmp_path / "False" / "policy")


# ---- one after the other


def test_one_that_is_due_while_another_is_written_waits_and_is_of_its_update(tmp_path, held):
    trained = Trained(tmp_path, in_background=True)
    trained.update()
    trained.checkpoints.save()
    trained.update()
    due = trained.network.weight.detach().clone()
    threading.Timer(SLOW, held.set).start()
    began = time.monotonic()
    trained.checkpoints.save()
    assert time.monotonic() - began > 0.9 * SLOW
    assert "step-1" in names(tmp_path)
    trained.update()
    trained.checkpoints.finish()
    assert names(tmp_path) == ["step-1", "step-2"]
    again = Trained(tmp_path, in_background=True)
    again.checkpoints.load_last()
    assert again.progress.step == 2
    assert torch.equal(again.network.weight, due)


def test_two_whole_ones_stay_until_the_third_is_whole(tmp_path, held):
    trained = Trained(tmp_path, in_background=True)
    for step in (1, 2, 3):
        held.set()
        trained.checkpoints.finish()
        trained.update()
        held.clear()
        trained.checkpoints.save()
        assert names(tmp_path) == ["partial", *(f"step-{one}" for one in range(1, step))]
    held.set()
    trained.checkpoints.finish()
    assert names(tmp_path) == ["step-2", "step-3"]


@pytest.mark.parametrize("fails", [True, False])
def test_the_last_is_stored_at_the_end_also_that_of_an_error(tmp_path, held, fails):
    trained = Trained(tmp_path, in_background=True)
    threading.Timer(SLOW, held.set).start()
    try:
        with trained.checkpoints:
            trained.update()
            trained.checkpoints.save()
            assert names(tmp_path) == ["partial"]
            if fails:
                raise KeyError("of a method")
    except KeyError:
        assert fails
    assert names(tmp_path) == ["step-1"]
    assert damaged_file(tmp_path / "step-1") is None


def test_a_signal_finds_the_pending_one_and_its_own_stored(tmp_path, held):
    def act():
        assert names(tmp_path / "checkpoints") == ["partial"]
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Timer(SLOW, held.set).start()

    with handled(), pytest.raises(StopRequested):
        fit(tmp_path, AtUpdate(sft(), 2, act), checkpointing_steps=2)
    assert names(tmp_path / "checkpoints") == ["step-2", "step-3"]
    assert [damaged_file(tmp_path / "checkpoints" / name) for name in ("step-2", "step-3")] == [None, None]


# ---- faults


def test_a_full_disk_is_told_at_the_next_checkpoint_and_leaves_the_last_one(tmp_path):
    trained = Trained(tmp_path, in_background=True)
    trained.update()
    trained.checkpoints.save()
    trained.checkpoints.finish()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        trained.update()
        trained.checkpoints.save()
        trained.update()
        with pytest.raises(OSError, match="File too large, and a checkpoint takes 0 MiB"):
            trained.checkpoints.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == ["step-1"]
    trained.checkpoints.save()
    trained.checkpoints.finish()
    assert names(tmp_path) == ["step-1", "step-3"]


@pytest.mark.parametrize("failing", [0, 1])
def test_of_two_processes_both_learn_at_the_next_checkpoint_that_one_could_not_write(tmp_path, failing):
    def save(rank):
        trained = Trained(tmp_path, True, Accelerator(cpu=True))
        trained.update()
        trained.checkpoints.save()
        trained.checkpoints.finish()
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        if rank == failing:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        trained.update()
        trained.checkpoints.save()
        trained.update()
        try:
            trained.checkpoints.save()
        except OSError as error:
            found = error.errno, str(error.strerror)
        else:
            return None
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        left = names(tmp_path)
        trained.checkpoints.accelerator.wait_for_everyone()
        with trained.checkpoints:
            trained.checkpoints.save()
        return *found, left

    told = (errno.EFBIG, "File too large, and a checkpoint takes 0 MiB")
    first, second = together(save)
    assert first == (*told, ["step-1"])
    assert second[:2] == told
    assert names(tmp_path) == ["step-1", "step-3"]
    assert {"generators-1.pt", "shards-0-of-2.pt", "shards-1-of-2.pt"} <= {*names(tmp_path / "step-3")}
    assert not list(tmp_path.glob("*/written-*"))


def test_that_of_two_processes_is_whole_before_they_meet_again(tmp_path):
    def save(rank):
        trained = Trained(tmp_path, True, Accelerator(cpu=True))
        trained.update()
        trained.checkpoints.save()
        deadline = time.monotonic() + 30
        while not (tmp_path / "step-1").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        found = names(tmp_path)
        trained.checkpoints.finish()
        return found

    assert together(save) == [["step-1"], ["step-1"]]


def test_the_thread_waits_for_others_as_long_as_they_write_and_not_for_those_that_are_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(background_write, "PATIENCE_SECONDS", SLOW)
    done = []
    gone = BackgroundWrite(tmp_path, 0, 2, lambda: None, lambda: done.append("gone"))
    gone.end_alone()
    assert gone.completed.done()
    assert done == []

    def other():
        for number in range(5):
            (tmp_path / "shards").write_text(number * "x")
            time.sleep(SLOW / 3)
        (tmp_path / "written-1").touch()

    threading.Thread(target=other).start()
    slow = BackgroundWrite(tmp_path, 0, 2, lambda: None, lambda: done.append("slow"))
    slow.end_alone()
    assert done == ["slow"]
    assert names(tmp_path) == ["shards"]


def test_a_process_that_is_lost_does_not_hold_the_others(tmp_path, monkeypatch):
    """It is killed while it writes; the next collective of the main process fails."""
    monkeypatch.setattr(background_write, "PATIENCE_SECONDS", SLOW)

    def main():
        Accelerator(cpu=True)
        rank = int(os.environ["RANK"])
        trained = Trained(tmp_path / "run", True)
        if rank == 1:
            checkpoint.save_state = lambda *_: kill()
        with trained.checkpoints:
            trained.update()
            trained.checkpoints.save()
            trained.update()
            trained.checkpoints.save()

    command = start((), tmp_path / "logs", [None, None], main)
    deadline = time.monotonic() + 60
    while not command.poll() and time.monotonic() < deadline:  # no launcher ends the main process
        time.sleep(0.02)
    command.send(signal.SIGKILL)
    assert [command.statuses.get(pid) for pid in command.pids] == [1, -signal.SIGKILL], command.told
    assert "RuntimeError" in command.told
    assert names(tmp_path / "run") == []


@pytest.mark.parametrize("environment", [{}, pytest.param(FSDP2, marks=pytest.mark.matrix)], ids=["ddp", "fsdp2"])
def test_a_kill_of_two_processes_in_the_midst_of_a_write_changes_no_byte(tmp_path, environment):
    changes = {"checkpointing_steps": 1, "ema_decay": 0.9}

    def dies():
        write, count = checkpoint.save_state, []

        def act(state, file):
            count.append(file)
            if file.parent.name == "partial" and "step-2" in names(file.parent.parent):
                file.write_bytes(b"half of it")
                kill()
            write(state, file)

        checkpoint.save_state = act

    def job(name):
        return lambda: fit(tmp_path / name, sft(), **changes)

    logs = tmp_path / "logs"
    killed = start((), logs, [dies, dies], job("killed"), environment)
    assert -signal.SIGKILL in killed.wait()
    assert names(tmp_path / "killed" / "checkpoints") == ["partial", "step-1", "step-2"]
    for name in ("killed", "whole"):
        done = start((), logs, [None, None], job(name), environment)
        assert done.wait() == [0, 0], done.told
    assert files_of(tmp_path / "killed" / "policy") == files_of(tmp_path / "whole" / "policy")
    assert log_of(tmp_path / "killed") == log_of(tmp_path / "whole")
    assert names(tmp_path / "killed" / "checkpoints") == ["step-2", "step-3"]
