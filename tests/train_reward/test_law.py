"""A judge of the shapes world comes near the law behind the votes that it learned from."""

import pytest

from alignbench.configuration.compose import composed
from alignbench.train_reward.run import train_reward


@pytest.mark.matrix
def test_votes_on_a_thousand_pairs_teach_what_people_like_the_look_of(tmp_path):
    """Measured: 7.3 points from the best possible, error 0.039. A guess is 20 points away."""
    pairs = ["data.num_pairs=1024", "data.num_prompts=1024", "data.fault_share=0"]
    length = ["train.max_train_steps=300", "train.evaluation_steps=25"]
    cfg = composed([*pairs, *length, "judge=head", f"results={tmp_path}"], "train_reward")
    figures = train_reward(cfg).figures
    assert figures["best"]["gap"]["value"] < 0.11
    assert figures["accuracy"]["low"] > 0.55
    assert figures["calibration"]["error"] < 0.08


@pytest.mark.matrix
def test_a_judge_that_starts_from_what_words_mean_learns_what_people_mind_from_a_few_hundred_pairs(tmp_path):
    """Measured: 8.4 points from the best possible, error 0.062. A guess is 28 points away."""
    pairs = ["data.num_pairs=640", "data.num_prompts=640"]
    sizes = ["train.total_batch_size=32", "train.micro_batch_size=32"]
    length = ["train.max_train_steps=60", "train.evaluation_steps=10"]
    cfg = composed([*pairs, *sizes, *length, f"results={tmp_path}"], "train_reward")
    figures = train_reward(cfg).figures
    assert figures["best"]["gap"]["value"] < 0.12
    assert figures["accuracy"]["low"] > 0.6
    assert figures["calibration"]["error"] < 0.1
