"""B15: a stop is told in a sentence: what is kept, which command goes on, exit status 130, 2 or, for a defect, 1."""

import errno
from dataclasses import replace

import pytest
import torch

from alignbench.terminal import endings
from alignbench.terminal.endings import one_sentence
from methods.sft import SFT
from tests.program import alignbench, manifests

FIT = [
    "method=sft", "model=sd15_mini", "data.num_pairs=16", "train.max_train_steps=4", "train.total_batch_size=2",
    "train.micro_batch_size=2", "train.checkpointing_steps=2", "stages=[train]",
]  # fmt: skip


@pytest.fixture
def breaks(monkeypatch):
    """Let the loss of one update be changed, or raise."""
    loss = SFT.loss

    def install(step, change):
        def broken(self, model, batch, context):
            found = loss(self, model, batch, context)
            return replace(found, values=change(found.values)) if context.step == step else found

        monkeypatch.setattr(SFT, "loss", broken)

    return install


def raising(error):
    def change(values):
        raise error

    return change


class Overflow(torch.autograd.Function):
    """The same values with an infinite gradient."""

    @staticmethod
    def forward(ctx, values):
        return values.clone()

    @staticmethod
    def backward(ctx, *gradients):
        return gradients[0] * torch.inf


def last_line(done):
    assert "Traceback" not in done.stdout + done.stderr
    return done.stderr.strip().splitlines()[-1]


def the_run(root):
    (name,) = manifests(root)
    return root / name


def test_ctrl_c_says_what_is_kept_and_how_to_go_on(breaks, tmp_path):
    breaks(3, raising(KeyboardInterrupt()))
    done = alignbench(*FIT, f"results={tmp_path}", check=False)
    assert done.returncode == 130
    assert last_line(done) == (
        f"alignbench: stopped by Ctrl-C; {the_run(tmp_path)} keeps the checkpoint of update 2; go on by: python -m "
        f"alignbench {' '.join(FIT[:-1])} 'stages=[train]' results={tmp_path}"
    )


def test_ctrl_c_before_anything_began(monkeypatch):
    def raising_command(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("alignbench.cli.checked_jobs", raising_command)
    done = alignbench("method=sft", check=False)
    assert (done.returncode, last_line(done)) == (130, "alignbench: stopped by Ctrl-C; nothing was begun")


def test_ctrl_c_in_a_sweep_says_at_which_job(breaks, tmp_path):
    breaks(1, raising(KeyboardInterrupt()))
    done = alignbench("-m", *FIT, "seed=0,1", f"results={tmp_path}", check=False)
    assert done.returncode == 130
    assert "stopped by Ctrl-C; job 1 of 2: " in last_line(done)
    assert "keeps no checkpoint yet; not begun: seed=1; go on by: python -m alignbench -m method=sft" in last_line(done)


def test_a_loss_that_is_not_finite_is_told_with_the_update_and_what_is_kept(breaks, tmp_path):
    breaks(3, lambda values: values * torch.nan)
    done = alignbench(*FIT, f"results={tmp_path}", check=False)
    assert done.returncode == 2
    run = the_run(tmp_path)
    told = last_line(done)
    assert told.startswith("alignbench: the loss of method=sft is not finite at update 4, of samples 6 ('")
    assert "'), 7 ('" in told
    assert told.endswith(
        f"'); lower train.learning_rate or train.max_grad_norm. {run} keeps the checkpoint of update 2; "
        f"model.policy={run} model.policy_step=last starts a new run from it"
    )


def test_a_gradient_that_is_not_finite_never_becomes_weights(breaks, tmp_path):
    breaks(3, Overflow.apply)
    done = alignbench(*FIT, f"results={tmp_path}", check=False)
    assert done.returncode == 2
    assert "the gradient of method=sft is not finite at update 4, of samples 6 ('" in last_line(done)
    assert not (the_run(tmp_path) / "policy").exists()


def test_other_jobs_of_a_sweep_go_on_after_one_that_diverges(breaks, tmp_path):
    factors = iter([torch.inf])
    breaks(1, lambda values: values * next(factors, 1.0))
    done = alignbench("-m", *FIT, "seed=0,1", f"results={tmp_path}", check=False)
    assert done.returncode == 2
    assert "job 1 of 2 failed: the loss of method=sft is not finite at update 2" in done.stderr
    assert last_line(done) == "alignbench: 1 of 2 jobs failed, as told above"
    assert sum("train" in one["completed"] for one in manifests(tmp_path).values()) == 1


# ---- defects, and what is none


def test_a_defect_is_a_file_and_a_sentence(breaks, tmp_path):
    breaks(0, raising(RuntimeError("shapes (2) and (3)\ndo not fit")))
    done = alignbench(*FIT, f"results={tmp_path}", check=False)
    assert done.returncode == 1
    (file,) = (tmp_path / "defects").iterdir()
    assert last_line(done) == (
        "alignbench: RuntimeError: shapes (2) and (3) do not fit. This is a defect of alignbench, not of your command; "
        f"send {file} to its maintainers"
    )
    text = file.read_text()
    assert "Traceback (most recent call last)" in text
    assert "method=sft" in text
    assert "torch" in text.splitlines()[0]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x/a"), "/x/a: No space left on device ("),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "/x: Permission denied"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "memory ran out (CUDA out of memory"),
        (MemoryError(), "memory ran out (of the machine); lower train.micro_batch_size"),
    ],
)
def test_what_the_machine_lacks_is_no_defect(capsys, tmp_path, error, told):
    with pytest.raises(SystemExit) as ended, one_sentence(tmp_path):
        raise error
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"alignbench: {told}")
    assert not list(tmp_path.iterdir())


def test_a_defect_without_a_place_for_its_file_is_printed(capsys, tmp_path):
    (tmp_path / "results").write_text("a file")
    with pytest.raises(SystemExit) as ended, one_sentence(tmp_path / "results"):
        raise KeyError("x")
    assert ended.value.code == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert "Traceback (most recent call last):" in lines
    assert lines[-1].endswith("send the lines above to its maintainers")


def test_a_process_among_several_does_not_name_a_command_that_is_not_its_own(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit):
        endings.stop_by_signal(KeyboardInterrupt(), "x keeps y", ["method=sft"])
    assert capsys.readouterr().err.strip() == "alignbench: stopped by Ctrl-C; x keeps y; repeat the command to go on"


@pytest.mark.parametrize(("words", "told"), [([], "x keeps y; go on by: python -m alignbench"), (None, "x keeps y")])
def test_the_command_without_words_is_named_too(capsys, words, told):
    with pytest.raises(SystemExit):
        endings.stop_by_signal(KeyboardInterrupt(), "x keeps y", words)
    assert capsys.readouterr().err.strip() == f"alignbench: stopped by Ctrl-C; {told}"
