"""Looks at a run while it trains: the best weights are kept, wherever they were, and looking changes nothing."""

import csv
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from alignbench.data.prompts import Prompt, PromptSet
from alignbench.evaluator import Evaluator, Preprocess
from alignbench.generation.generate import Sampling
from alignbench.models.tiny_random import tiny_adapter
from alignbench.store.image_records import read_prompts
from alignbench.store.manifest import Manifest
from alignbench.store.run_folder import RunFolder
from alignbench.training.train import train
from alignbench.training.validation import Validation
from tests.processes import FSDP2, together
from tests.tiny_runs import DiesAt, Interrupted, RandomPairs, files_of, log_of, settings, sft

PROMPTS = PromptSet("fixed", tuple(Prompt(f"p{n}", f"held-out prompt {n}") for n in range(5)), 5)
MANIFEST = Manifest("run", "sft", "tiny", 0, "hash", "hash")


class Brightest(Preprocess):
    key = "brightest"

    def __call__(self, images):
        return torch.tensor([float(sum(image.convert("L").histogram()[128:])) for image in images])


class Brightness(Evaluator):
    """Scores what the pictures show."""

    name, version, preprocess = "brightness", "1", Brightest()

    def encode_prompts(self, prompts):
        return list(prompts)

    def score_features(self, features: Tensor, encoded) -> Tensor:
        return features


class Scripted(Brightness):
    """At its k-th look, the first `wins[k]` of five images are better than at the start, and the others worse."""

    name = "scripted"

    def __init__(self, *wins):
        self.wins = list(wins)

    def score_features(self, features: Tensor, encoded) -> Tensor:
        wins = self.wins.pop(0)
        if wins is None:  # the start
            return torch.zeros(len(encoded))
        return torch.tensor([1.0 if int(text[-1]) < wins else -1.0 for text in encoded])


def make_validation(path, *evaluators, every=1, select=(), patience=None, unit="updates"):
    folder = RunFolder(path)
    folder.open(MANIFEST)
    sampling = Sampling(num_inference_steps=2, guidance_scale=1.0, batch_size=8)
    accelerator = Accelerator(cpu=True)
    return Validation(PROMPTS, sampling, evaluators, folder, accelerator, every, select, patience, unit=unit)


def run(path, validation=None, method=None, **changes):
    model = tiny_adapter("flux")
    cfg = settings(**{"learning_rate": 1e-2, **changes})
    return train(cfg, model, method or sft(), RandomPairs(), RunFolder(path), Accelerator(cpu=True), (), validation)


def table(path):
    with (path / "validation.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_that_collapses_ends_with_the_weights_that_were_best(tmp_path):
    validation = make_validation(tmp_path / "run", Scripted(None, 3, 5, 1, 0), select=["scripted"])
    run(tmp_path / "run", validation, max_train_steps=4)
    run(tmp_path / "two", max_train_steps=2)
    assert validation.best_step == 2
    assert files_of(tmp_path / "run" / "policy") == files_of(tmp_path / "two" / "policy")
    assert not validation.best_policy.exists()
    rows = table(tmp_path / "run")
    assert [(row["step"], float(row["win_rate"])) for row in rows] == [
        ("0", 0.5), ("1", 0.6), ("2", 1.0), ("3", 0.2), ("4", 0.0),
    ]  # fmt: skip
    assert 0.0 < float(rows[1]["ci_low"]) < 0.6 < float(rows[1]["ci_high"]) <= 1.0


def test_without_a_choice_the_last_weights_are_kept_and_looking_changes_nothing(tmp_path):
    run(tmp_path / "seen", make_validation(tmp_path / "seen", Brightness(), every=2), max_train_steps=4)
    run(tmp_path / "unseen", max_train_steps=4)
    assert files_of(tmp_path / "seen" / "policy") == files_of(tmp_path / "unseen" / "policy")
    assert log_of(tmp_path / "seen") == log_of(tmp_path / "unseen")
    assert [row["step"] for row in table(tmp_path / "seen")] == ["0", "2", "4"]


def test_looks_may_count_network_passes(tmp_path):
    """Eight images an update, three passes each: the second multiple of 40 is reached in the fourth update."""
    validation = make_validation(tmp_path, Brightness(), every=40, unit="network_passes")
    run(tmp_path, validation, max_train_steps=5)
    rows = table(tmp_path)
    assert [(row["step"], row["network_passes"]) for row in rows] == [
        ("0", "0"),
        ("2", "48"),
        ("4", "96"),
        ("5", "120"),
    ]


def test_training_ends_when_patience_does(tmp_path):
    validation = make_validation(tmp_path, Scripted(None, 1, 5, 5, 4), select=["scripted"], patience=2)
    assert run(tmp_path, validation, max_train_steps=9).budget["optimizer_steps"] == 4
    assert validation.best_step == 2


def test_the_mean_of_several_judges_decides(tmp_path):
    one, other = Scripted(None, 5, 4), Scripted(None, 0, 4)
    other.name = "other"
    validation = make_validation(tmp_path, one, other, select=["scripted", "other"])
    run(tmp_path, validation, max_train_steps=2)
    assert (validation.best_step, validation.best_rate) == (2, 0.8)


def test_what_is_looked_at_is_what_would_be_saved(tmp_path):
    """The average of the weights where there is one; afterwards training goes on from the weights."""
    changes = {"ema_decay": 0.5, "max_train_steps": 2}
    run(tmp_path / "seen", make_validation(tmp_path / "seen", Brightness(), every=1), **changes)
    run(tmp_path / "unseen", **changes)
    assert files_of(tmp_path / "seen" / "policy") == files_of(tmp_path / "unseen" / "policy")
    model = tiny_adapter("flux")
    model.load_policy(RunFolder(tmp_path / "seen").policy)
    last = tmp_path / "seen" / "validation" / "step-2"
    again = make_validation(tmp_path / "again", Brightness())
    again.evaluate(0, model, save_policy=None, weight_distance=0.0)
    (images,) = last.glob("images/*/*")
    (same,) = (tmp_path / "again").glob("validation/step-0/images/*/*")
    assert all((images / f"p{n}-0.png").read_bytes() == (same / f"p{n}-0.png").read_bytes() for n in range(5))


@pytest.mark.parametrize("dies_at", [1, 3])
def test_a_killed_run_that_is_repeated_chooses_like_one_that_was_never_killed(tmp_path, dies_at):
    changes = {"checkpointing_steps": 2, "max_train_steps": 5, "ema_decay": 0.9}
    ends = []
    for name in ("whole", "killed"):
        validation = make_validation(tmp_path / name, Brightness(), select=["brightness"])
        if name == "killed":
            with pytest.raises(Interrupted):
                run(tmp_path / name, validation, DiesAt(sft(), dies_at), **changes)
            validation = make_validation(tmp_path / name, Brightness(), select=["brightness"])
        run(tmp_path / name, validation, **changes)
        ends.append((validation.best_step, validation.findings, files_of(tmp_path / name / "policy")))
    assert ends[0] == ends[1]


def test_processes_that_share_the_weights_look_together(tmp_path):
    """Five prompts do not split evenly over two processes, and one has images already; nobody waits in vain."""

    def job(rank, path):
        validation = make_validation(path, Brightness(), select=["brightness"])
        validation.sampling = replace(validation.sampling, batch_size=1)
        run(path, validation, max_train_steps=2, total_batch_size=4, micro_batch_size=2)
        return [(one.step, one.median, one.win_rate) for one in validation.findings], validation.best_step

    together(job, tmp_path / "two", environment=FSDP2)
    for name in ("p0-0.png", "p2-0.png"):
        (image,) = (tmp_path / "two" / "validation" / "step-1").rglob(name)
        image.unlink()
    shared = together(job, tmp_path / "two", environment=FSDP2)
    assert shared[0] == shared[1]
    alone = job(0, tmp_path / "one")
    assert [step for step, *_ in shared[0][0]] == [0, 1, 2]
    for (_, *found), (_, *expected) in zip(shared[0][0], alone[0], strict=True):
        assert found == pytest.approx(expected, rel=0.05, abs=0.21)  # a level of a picture may differ


def test_the_images_of_a_look_come_from_the_same_noise_every_time(tmp_path):
    validation = make_validation(tmp_path, Brightness())
    run(tmp_path, validation, max_train_steps=2, learning_rate=1e-12)
    first, last = (next((tmp_path / "validation" / f"step-{n}").glob("images/*/*")) for n in (0, 2))
    assert [record.prompt for record in read_prompts(first)] == PROMPTS.texts
    assert all((first / f"p{n}-0.png").read_bytes() == (last / f"p{n}-0.png").read_bytes() for n in range(5))
