"""The loop that fits a judge: what it recovers, what it keeps, and that kills, layouts and processes change nothing."""

from collections import Counter

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from omegaconf import OmegaConf
from scipy.special import expit
from torch import nn

from alignbench.configuration.build import conf_folder
from alignbench.context import keyed_generator
from alignbench.data.source import Pair, PairSource, TrainingImage
from alignbench.reading import read_json_lines
from alignbench.reward_model import RewardModel
from alignbench.settings.reward_training import RewardTrain
from alignbench.train_reward.fit import fit, predict
from alignbench.train_reward.pairs import Decoder, PairSplit
from evaluators.networks.preprocess import ClipPixels
from tests.processes import together


class Interrupted(Exception):
    pass


class Grays(PairSource):
    """Pairs of gray pictures under a known law: the odds of one rise with its brightness."""

    name = "grays"
    mixed = "dropped"
    fingerprint = "grays"
    num_filtered = Counter()  # noqa: RUF012
    pairs = ()
    prompts = ()
    slope = 4.0

    def __init__(self, num_pairs=96):
        self.pairs = [self._judged(number) for number in range(num_pairs)]
        self.prompts = [pair.prompt for pair in self.pairs]

    def _judged(self, number):
        keys = (f"{number}-0", f"{number}-1")
        odds = [self.slope * self.image(key).pixels.mean() / 255 for key in keys]
        label = float(expit(odds[0] - odds[1]))
        return Pair(f"prompt {number}", *(keys if label > 0.5 else keys[::-1]), max(label, 1 - label))

    def image(self, key):
        value = int(torch.randint(0, 256, (), generator=keyed_generator(key)))
        return TrainingImage(key, np.full((8, 8, 3), value, np.uint8))


class Brightness(RewardModel):
    """A score that is linear in what each channel of the image is on average; the prompt scales it by nothing."""

    kind = "brightness"

    def __init__(self):
        super().__init__()
        self.preprocess = ClipPixels(8)
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(3, generator=generator) * 0.01)
        self.dies_at = None

    def encode_prompts(self, prompts):
        return torch.ones(len(prompts), 1)

    def image_features(self, inputs):
        return inputs.mean(dim=(2, 3))

    def text_features(self, encoded):
        return encoded

    def compare(self, images, texts):
        if self.dies_at is not None and self.training:
            self.dies_at -= 1
            if self.dies_at < 0:
                raise Interrupted
        return self.log_scale.exp() * texts[:, 0] * (images @ self.weight)

    def description(self):
        return {}

    @classmethod
    def restored(cls, description, tensors, folder, start):
        return cls()


def settings(**changes):
    values = OmegaConf.create(RewardTrain.defaults())
    values.optimizer = OmegaConf.load(conf_folder() / "optimizer" / "adamw.yaml")
    small = {
        "max_train_steps": 6, "total_batch_size": 8, "micro_batch_size": 4, "learning_rate": 0.05, "lr_warmup_steps": 0,
        "evaluation_steps": 2, "checkpointing_steps": 2, "logging_steps": 1,
    }  # fmt: skip
    return OmegaConf.merge(values, small, changes)


def run(folder, dies_at=None, accelerator=None, data=None, **changes):
    data = data or Grays()
    reward_model = Brightness()
    reward_model.dies_at = dies_at
    split = PairSplit.of(data.prompts, 0.2, 0.2)
    accelerator = accelerator or Accelerator(cpu=True)
    reader = Decoder(data.view("pairs"), reward_model, 0)
    probability = np.array([pair.probability_w for pair in data.pairs])
    used = fit(reward_model, reader, split, probability, settings(**changes), 0, folder, accelerator)
    return reward_model, used, (data, split, reader, probability, accelerator)


@pytest.mark.matrix
def test_soft_labels_are_recovered_as_probabilities(tmp_path):
    reward_model, _, (_, split, reader, probability, accelerator) = run(
        tmp_path, data=Grays(400), max_train_steps=400, total_batch_size=64, micro_batch_size=64, evaluation_steps=100
    )
    found = expit(predict(reward_model, reader, split.heldout, 16, accelerator))
    assert np.abs(found - probability[split.heldout]).max() < 0.02


def test_the_weights_that_predict_the_validation_pairs_best_are_kept(tmp_path):
    """Labels of the training pairs are turned around, so every update makes the validation loss worse."""
    data = Grays()
    split = PairSplit.of(data.prompts, 0.2, 0.2)
    train = set(split.train)
    data.pairs = [
        Pair(pair.prompt, pair.key_l, pair.key_w, pair.probability_w) if row in train else pair
        for row, pair in enumerate(data.pairs)
    ]
    _, used, _ = run(tmp_path, data=data, lr_scheduler="constant", max_train_steps=20)
    assert (used["selected_step"], used["optimizer_steps"]) == (2, 20)
    losses = [
        line["validation_loss"] for line in read_json_lines(tmp_path / "train.jsonl") if "validation_loss" in line
    ]
    assert used["validation_loss"] == min(losses) == losses[0]
    reward_model, patient, _ = run(
        tmp_path / "patient", data=data, lr_scheduler="constant", max_train_steps=20, patience_steps=4
    )
    assert (patient["selected_step"], patient["optimizer_steps"]) == (2, 6)
    early, _, _ = run(tmp_path / "early", data=data, lr_scheduler="constant", max_train_steps=2)
    assert torch.equal(reward_model.weight, early.weight)


@pytest.mark.parametrize("in_background", [False, True])
def test_a_killed_fit_that_is_repeated_ends_as_one_that_was_never_killed(tmp_path, in_background):
    whole, used, _ = run(tmp_path / "whole", max_train_steps=7)
    with pytest.raises(Interrupted):
        run(tmp_path / "killed", dies_at=2 * 5, max_train_steps=7, checkpoints_in_background=in_background)
    assert {path.name for path in (tmp_path / "killed" / "checkpoints").iterdir()} == {"step-2", "step-4"}
    again, used_again, _ = run(tmp_path / "killed", max_train_steps=7)
    assert torch.equal(whole.weight, again.weight)
    assert used["selected_step"] == used_again["selected_step"]
    logs = [read_json_lines(tmp_path / name / "train.jsonl") for name in ("whole", "killed")]
    assert logs[0] == logs[1]
    assert [line["step"] for line in logs[0]] == [1, 2, 3, 4, 5, 6, 7]


def test_micro_batches_do_not_change_the_update(tmp_path):
    weights = [run(tmp_path / str(size), micro_batch_size=size)[0].weight for size in (1, 3, 8)]
    torch.testing.assert_close(weights[0], weights[2], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(weights[1], weights[2], rtol=1e-5, atol=1e-7)


def fitted(rank, folder):
    reward_model, used, (_, split, reader, _, accelerator) = run(folder, accelerator=Accelerator(cpu=True))
    margins = predict(reward_model, reader, split.heldout, 4, accelerator)
    return reward_model.weight.tolist(), used["selected_step"], margins.tolist(), used["num_processes"]


def test_two_processes_end_where_one_does(tmp_path):
    alone = fitted(0, tmp_path / "alone")
    first, second = together(fitted, tmp_path / "together")
    assert first == second
    assert (alone[3], first[3]) == (1, 2)
    np.testing.assert_allclose(first[0], alone[0], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(first[2], alone[2], rtol=1e-4, atol=1e-6)


def test_a_loss_that_is_not_finite_stops_the_fit(tmp_path, monkeypatch):
    monkeypatch.setattr(Brightness, "compare", lambda self, images, texts: images @ self.weight * torch.inf)
    with pytest.raises(FloatingPointError, match="not finite at update 1"):
        run(tmp_path)


def test_prediction_leaves_the_judge_in_its_mode(tmp_path):
    reward_model, _, (_, split, reader, _, accelerator) = run(tmp_path)
    for mode in (True, False):
        reward_model.train(mode)
        predict(reward_model, reader, split.heldout, 4, accelerator)
        assert reward_model.training == mode
