"""A judge of the shapes world comes near the law behind the votes that it learned from."""

import pytest

from alignbench.command_line import composed
from alignbench.train_reward.run import train_reward


@pytest.mark.slow
def test_votes_on_a_thousand_pairs_teach_what_people_like_the_look_of(tmp_path):
    """Measured: 7.3 points from the best possible, error 0.039. A guess is 20 points away."""
    pairs = ["data.num_pairs=1024", "data.num_prompts=1024", "data.fault_share=0"]
    length = ["train.max_train_steps=300", "train.evaluation_steps=25"]
    cfg = composed([*pairs, *length, "judge=head", f"results={tmp_path}"], "train_reward")
    figures = train_reward(cfg).figures
    assert figures["best"]["gap"]["value"] < 0.11
    assert figures["accuracy"]["low"] > 0.55
    assert figures["calibration"]["error"] < 0.08
