"""What the machine lacks is said with what is needed, what helps and what is kept; nothing half done stays."""

import errno
import multiprocessing
import os
import re
import resource
import subprocess
import tempfile

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import save_file

from alignbench.configuration.compose import composed
from alignbench.configuration.sections import REWARD_SECTIONS, SECTIONS, check_settings
from alignbench.errors import MemoryRanOutError, UserError
from alignbench.files import replacing, replacing_folder, write_text
from alignbench.settings.command import STAGES
from alignbench.stages.early_end import advice_in
from alignbench.store.run_folder import RunFolder
from alignbench.terminal.machine import lost_a_process, of_the_machine, ran_out_of_memory
from alignbench.training.checkpoint import Checkpoints, Counters
from methods.sft import SFT
from tests.faults.test_signals import FIT, AtUpdate, fit
from tests.processes import _work, together
from tests.program import alignbench, manifests
from tests.tiny_runs import sft


@pytest.fixture
def limit():
    """Let no file grow beyond so many bytes, as a quota does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda num_bytes: resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a disk of so many KiB and files."""
    place = tmp_path / "disk"

    def mount(size, num_files=1000):
        place.mkdir()
        options = f"size={size}k,nr_inodes={num_files}"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        if os.getuid() or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("this user may not mount a disk")
        return place

    yield mount
    if place.is_mount():
        subprocess.run(["umount", "-l", str(place)], check=True)


# ---- disks


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_that_does_not_fit_leaves_the_last_one_and_nothing_half_done(tmp_path, limit):
    with pytest.raises(OSError, match="and a checkpoint takes 1 MiB") as full:
        fit(tmp_path, AtUpdate(sft(), 2, lambda: limit(20_000)), checkpointing_steps=2, max_train_steps=6)
    limit(resource.RLIM_INFINITY)
    assert full.value.errno == errno.EFBIG
    assert names(tmp_path / "checkpoints") == ["step-2"]
    told = of_the_machine(full.value, "x keeps y")
    assert told.startswith(f"{tmp_path / 'checkpoints'}: File too large, and a checkpoint takes")
    assert told.endswith(
        "; x keeps y; free some space, or choose another disk by results=FOLDER, and repeat the command"
    )


def test_of_two_processes_both_fail_where_one_cannot_write(tmp_path):
    def save(rank):
        checkpoints = Checkpoints(tmp_path, Accelerator(cpu=True), Counters(step=1), {}, {})
        if rank == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
        try:
            checkpoints.save()
        except OSError as error:
            return error.errno
        return 0

    assert together(save) == [errno.EFBIG, errno.EFBIG]
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_text(path, "x" * 10_000),
        lambda path: _in(replacing(path), lambda file: save_file({"a": torch.zeros(5000)}, file)),
        lambda path: _in(replacing(path), _torch_save),
        lambda path: _in(
            replacing_folder(path), lambda folder: save_file({"a": torch.zeros(5000)}, folder / "a.safetensors")
        ),
    ],
    ids=["text", "safetensors", "torch", "folder"],
)
def test_whoever_writes_it_is_known_that_the_disk_is_full(tmp_path, limit, write):
    limit(4096)
    with pytest.raises(OSError, match="File too large") as failed:
        write(tmp_path / "file")
    limit(resource.RLIM_INFINITY)
    assert names(tmp_path) == []
    assert of_the_machine(failed.value) is not None, repr(failed.value)
    assert str(tmp_path / "file") in str(failed.value)


def _torch_save(file):
    with file.open("wb") as opened:
        torch.save({"a": torch.zeros(5000)}, opened)


def _in(context, write):
    with context as unfinished:
        write(unfinished)


@pytest.mark.parametrize(
    ("size", "num_files", "told"),
    [(64, 1000, r"\(\d+ MiB are free\)"), (10_000, 6, "no further file can be made, as all inodes are used")],
)
def test_a_full_disk_says_of_what_it_is_full(small_disk, size, num_files, told):
    place = small_disk(size, num_files)
    with pytest.raises(OSError, match="No space left") as full:
        _ = [write_text(place / str(number), "x" * 10_000) for number in range(10)]
    sentence = of_the_machine(full.value)
    assert sentence is not None
    assert re.search(told, sentence), sentence
    assert not [name for name in names(place) if name.endswith(".tmp")]


def test_a_folder_that_may_only_be_read_is_named(small_disk):
    place = small_disk(1000)
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    with pytest.raises(OSError, match="Read-only") as refused:
        write_text(place / "a", "x")
    told = of_the_machine(refused.value)
    assert told is not None
    assert str(place) in told
    assert "choose another folder" in told


@pytest.mark.matrix
def test_a_command_on_a_full_disk_ends_in_a_sentence_and_goes_on_when_there_is_room(small_disk):
    place = small_disk(60_000)
    done = alignbench(*FIT, "train.checkpointing_steps=1", f"results={place}", check=False)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "No space left on device" in done.stderr
    assert not list(place.rglob("partial")) + list(place.rglob("*.tmp"))
    subprocess.run(["mount", "-o", "remount,size=500000k", str(place)], check=True)
    alignbench(*FIT, "train.checkpointing_steps=1", f"results={place}")


# ---- memory


def allocate():
    torch.empty(2**50)


def test_too_little_memory_is_recognised_however_it_is_said():
    with pytest.raises(RuntimeError) as failed:
        allocate()
    assert ran_out_of_memory(failed.value)
    assert ran_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert ran_out_of_memory(OSError(errno.ENOMEM, "Cannot allocate memory"))
    assert not ran_out_of_memory(RuntimeError("shapes do not fit"))


@pytest.mark.parametrize(
    ("stage", "words", "helps", "no_help"),
    [
        ("train", (), "train.micro_batch_size (now 24), add memory=[checkpointing,offload], set train.tuning=lora", ""),
        ("train", ("train.tuning=lora", "memory=offload"), "add memory=[checkpointing]; dry_run", "set train.tuning"),
        ("train", ("train.micro_batch_size=1",), "add memory=[", "micro_batch_size"),
        ("train", (), "set train.tuning=lora; dry_run", "in_background"),
        ("train", ("train.checkpoints_in_background=true",), "in_background=false if main memory ran out; dry_run", ""),
        ("generate", ("sampling.batch_size=3",), "lower sampling.batch_size (now 3)", "train"),
        ("score", (), "lower sampling.batch_size", "base_bits"),
        ("prepare", (), "leave prepare out of stages", "batch_size"),
    ],
)  # fmt: skip
def test_what_helps_depends_on_the_stage_and_on_what_is_set(stage, words, helps, no_help):
    cfg = composed(["method=sft", "model=sd15_mini", *words])
    with (
        pytest.raises(MemoryRanOutError, match=f"^memory ran out in the stage {stage} ") as failed,
        advice_in(stage, cfg),
    ):
        allocate()
    assert helps in str(failed.value)
    assert not no_help or no_help not in str(failed.value)


def test_every_stage_has_advice_and_other_errors_pass():
    for stage in STAGES:
        with pytest.raises(KeyError), advice_in(stage, composed(["method=sft", "model=sd15_mini"])):
            raise KeyError


@pytest.mark.matrix
@pytest.mark.matrix
def test_memory_that_runs_out_in_one_run_of_a_sweep_leaves_the_others(tmp_path, monkeypatch):
    loss, runs = SFT.loss, iter([allocate])
    monkeypatch.setattr(SFT, "loss", lambda *given: next(runs, lambda: None)() or loss(*given))
    done = alignbench("-m", *FIT, "train.max_train_steps=1", "seed=0,1", f"results={tmp_path}", check=False)
    assert done.returncode == 2
    assert "job 1 of 2 failed: memory ran out in the stage train (" in done.stderr
    assert "keeps no checkpoint yet" in done.stderr
    assert sum("train" in one["completed"] for one in manifests(tmp_path).values()) == 1


# ---- numbers that are not finite


def test_weights_that_are_not_finite_never_become_a_checkpoint(tmp_path):
    network = torch.nn.Linear(2, 2)
    checkpoints = Checkpoints(tmp_path, Accelerator(cpu=True), Counters(step=3), {"policy": network}, {})
    checkpoints.save()
    checkpoints.progress.step = 4
    network.weight.data[0, 0] = torch.inf
    with pytest.raises(FloatingPointError, match="not finite after update 4"):
        checkpoints.save()
    assert names(tmp_path) == ["step-3"]


@pytest.mark.parametrize("program", ["config", "train_reward"])
def test_a_learning_rate_that_optimizers_cannot_compute_with_is_refused(program):
    """AdamW divides it by a tenth at first, which overflows."""
    with pytest.raises(UserError, match=r"train.learning_rate=1e\+38 must be a number above 0 and of at most 1e\+06"):
        check_settings(
            composed(["train.learning_rate=1e38"], program), SECTIONS if program == "config" else REWARD_SECTIONS
        )


def test_a_learning_rate_that_is_far_too_high_ends_before_a_checkpoint(tmp_path):
    with pytest.raises(FloatingPointError, match="not finite"):
        fit(tmp_path, sft(), learning_rate=1e6, checkpointing_steps=3)
    assert not list((tmp_path / "checkpoints").glob("step-*"))


def test_the_scale_of_half_precision_losses_goes_on_where_it_was(tmp_path):
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    checkpoints = Checkpoints(tmp_path, Accelerator(cpu=True), Counters(step=1), {}, {"scaler": scaler})
    checkpoints.save()
    scaler.load_state_dict(scaler.state_dict() | {"scale": 2.0})
    checkpoints.load_last()
    assert scaler.get_scale() == 8.0


# ---- processes


def test_who_waits_for_a_process_that_is_gone_says_so(tmp_path):
    def one(rank):
        try:
            fit(tmp_path, AtUpdate(sft(), 1, lambda: os._exit(9)) if rank == 1 else sft(), checkpointing_steps=1)
        except RuntimeError as error:
            told = of_the_machine(error, f"{RunFolder(tmp_path).path} keeps y")
            (tmp_path / "told").write_text(told or repr(error))
            os._exit(0)  # the barrier after the job would wait for the other
        return

    pids = _launch(one)
    assert pids == [0, 9]
    told = (tmp_path / "told").read_text()
    assert told.startswith("another process of this command was lost (")
    assert told.endswith(" keeps y; repeat the command to go on")
    assert names(tmp_path / "checkpoints") == ["step-1"]
    assert not lost_a_process(RuntimeError("gloo"))  # one process alone has lost none


def _launch(function):
    """Run two processes of one group; return the exit status of each."""

    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        workers = [
            context.Process(target=_work, args=(function, (), rank, 2, folder, {}, context.Queue())) for rank in (0, 1)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(timeout=200)
        return [worker.exitcode for worker in workers]
