"""A reward model whose training is killed goes on from where it was; what was found best is never lost."""

import json

import pytest
import torch

from alignbench.settings.reward_training import RewardTrain
from alignbench.settings.train import Train
from tests.train_reward.test_fit import Interrupted, run


def test_checkpoints_are_as_frequent_as_in_training():
    assert RewardTrain.defaults()["checkpointing_steps"] == Train.defaults()["checkpointing_steps"]


def test_a_kill_after_an_evaluation_keeps_the_validated_best(tmp_path):
    """No checkpoint is due by itself: checkpointing_steps lies beyond the end, as with 151 of 300 updates."""
    settings = {"max_train_steps": 9, "evaluation_steps": 3, "checkpointing_steps": 100}
    whole, used, _ = run(tmp_path / "whole", **settings)
    with pytest.raises(Interrupted):
        run(tmp_path / "killed", dies_at=2 * 5, **settings)
    assert [path.name for path in (tmp_path / "killed" / "checkpoints").iterdir()] == ["step-3"]
    again, used_again, _ = run(tmp_path / "killed", **settings)
    assert torch.equal(whole.weight, again.weight)
    same = {key: used[key] for key in ("optimizer_steps", "selected_step", "validation_loss")}
    assert same == {key: used_again[key] for key in same}
    logs = [
        [json.loads(line) for line in (tmp_path / name / "train.jsonl").read_text().splitlines()]
        for name in ("whole", "killed")
    ]
    assert logs[0] == logs[1]
