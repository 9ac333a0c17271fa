"""D8: `train.max_train_minutes` ends training with weights that are as good as those of any other end."""

import math
from types import SimpleNamespace

import pytest
from accelerate import Accelerator

from alignbench.configuration.build import recipe_hash, run_name
from alignbench.configuration.compose import check_command_line, composed
from alignbench.errors import UserError
from alignbench.models.tiny_random import tiny_adapter
from alignbench.stages.introduction import introduction
from alignbench.store.run_folder import RunFolder
from alignbench.training.train import Limits, Progress, train
from tests.processes import together
from tests.tiny_runs import DiesAt, Interrupted, RandomPairs, files_of, log_of, settings, sft

MICRO_BATCHES = 2  # of an update


class Slow:
    """Wraps a method so that each of its updates takes some seconds of a clock of its own, which the loop reads."""

    def __init__(self, method, monkeypatch, seconds):
        self.method, self.seconds, self.now = method, seconds, 1e6
        monkeypatch.setattr("alignbench.training.train.time", SimpleNamespace(monotonic=lambda: self.now))

    def __getattr__(self, name):
        return getattr(self.method, name)

    def loss(self, model, batch, context):
        loss = self.method.loss(model, batch, context)
        self.now += self.seconds / MICRO_BATCHES
        return loss


def fit(path, method, **changes):
    changes = {"max_train_steps": 9, "checkpointing_steps": 1, "ema_decay": 0.9} | changes
    trained = train(
        settings(**changes), tiny_adapter("flux"), method, RandomPairs(), RunFolder(path), Accelerator(cpu=True)
    )
    return trained.budget


def test_training_ends_with_the_update_that_reaches_the_limit(tmp_path, monkeypatch):
    budget = fit(tmp_path / "limited", Slow(sft(), monkeypatch, seconds=40), max_train_minutes=1.5)
    assert (budget["optimizer_steps"], budget["train_seconds"]) == (3, 120.0)
    assert budget["device_hours"] == 120 / 3600
    fit(tmp_path / "three", sft(), max_train_steps=3)
    assert files_of(tmp_path / "limited" / "policy") == files_of(tmp_path / "three" / "policy")


def test_the_number_of_updates_still_ends_it(tmp_path, monkeypatch):
    budget = fit(tmp_path, Slow(sft(), monkeypatch, seconds=1), max_train_minutes=60, max_train_steps=2)
    assert (budget["optimizer_steps"], budget["train_seconds"]) == (2, 2.0)


def test_time_is_counted_over_an_interruption(tmp_path, monkeypatch):
    """Three updates of 20 s before the kill, then updates of 30 s: 60 s and two more make two minutes."""
    with pytest.raises(Interrupted):
        fit(tmp_path, DiesAt(Slow(sft(), monkeypatch, seconds=20), 3), max_train_minutes=2)
    budget = fit(tmp_path, Slow(sft(), monkeypatch, seconds=30), max_train_minutes=2)
    assert (budget["optimizer_steps"], budget["train_seconds"]) == (5, 120.0)


def test_processes_whose_clocks_differ_end_at_the_same_update(tmp_path):
    """By its own clock the second would end after the first update, and the first would wait for it for ever."""

    def job(rank):
        with pytest.MonkeyPatch.context() as patch:
            method = Slow(sft(), patch, seconds=(20, 600)[rank])
            budget = fit(tmp_path / "two", method, max_train_minutes=1, micro_batch_size=2)
        return budget["optimizer_steps"], budget["train_seconds"]

    assert together(job) == [(3, 60.0)] * 2
    assert len(log_of(tmp_path / "two")) == 3


# ---- what is expected of the end


@pytest.mark.parametrize(
    ("used", "expected"),
    [
        ({"train_seconds": 0.0}, 100),
        ({"train_seconds": 30.0}, 20),  # half of the minute for 10 updates
        ({"train_seconds": 1.0}, 100),  # there is time for 600
        ({"train_seconds": 35.0}, 18),  # 17.1: the update that reaches the limit is made
        ({"train_seconds": 60.0}, 10),
        ({"train_seconds": 30.0, "network_passes": 800}, 13),  # 1000 passes are used up before the minute
    ],
)
def test_the_bar_shows_how_many_updates_the_limits_allow(used, expected):
    limits, progress = Limits(steps=100, network_passes=1000, seconds=60), Progress(step=10, **used)
    assert limits.expected_steps(progress) == expected
    assert limits.reached(progress) == (expected == progress.step)


def test_without_limits_training_ends_with_its_updates():
    limits = Limits.of(settings().train)
    assert limits == Limits(4, math.inf, math.inf)
    assert limits.expected_steps(Progress(step=3, train_seconds=1e9, network_passes=10**9)) == 4
    assert [limits.reached(Progress(step=step)) for step in (3, 4)] == [False, True]


# ---- the command


def test_a_limit_changes_the_name_of_a_run_and_none_leaves_it_as_it_was():
    plain, none, hour = (
        composed(["method=dpo", "model=sd15_mini", *more])
        for more in ([], ["train.max_train_minutes=null"], ["train.max_train_minutes=60"])
    )
    assert run_name(plain) == run_name(none) != run_name(hour)
    assert recipe_hash(plain) == recipe_hash(none) != recipe_hash(hour)


@pytest.mark.parametrize("value", ["0", "-1", "soon"])
def test_a_limit_is_a_positive_number(value):
    with pytest.raises(UserError, match=f"train.max_train_minutes={value} must be a number above 0, or null"):
        check_command_line(["method=dpo", "model=sd15_mini", f"train.max_train_minutes={value}"], False)


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ([], "7 updates,"),
        (["train.max_train_minutes=90"], "90 minutes, at most 7 updates,"),
        (
            ["train.max_train_minutes=0.5", "train.max_network_passes=2000"],
            "2,000 network passes or 0.5 minutes, at most 7 updates,",
        ),
    ],
)
def test_the_head_of_a_run_names_the_limits(limits, told):
    cfg = composed(["method=dpo", "model=sd15_mini", "train.max_train_steps=7", *limits])
    facts = introduction(cfg, ["train"], Accelerator(cpu=True), None, None)
    assert f"; {told}" in dict(facts)["batch"]
