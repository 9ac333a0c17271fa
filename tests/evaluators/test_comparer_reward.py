"""A comparer as a reward: what it is asked, what is counted, and when training cannot go by it."""

import pytest
import torch
from PIL import Image

from alignbench.errors import UserError
from evaluators.comparer_reward import FEWEST, ComparerReward
from evaluators.comparers.shapes import ShapesComparer
from tests.online_runs import Brighter

PROMPT = "a red circle"


def grey(*levels):
    return [Image.new("RGB", (8, 8), (level,) * 3) for level in levels]


def score(reward, *levels):
    return reward.score(grey(*levels), [PROMPT] * len(levels), batch_size=len(levels))


def test_the_reward_is_the_share_of_the_wins_whoever_comes_first():
    for bias in (0.0, 500.0):
        comparer = Brighter(bias)
        found = score(ComparerReward(comparer), 10, 30, 20, 0)
        torch.testing.assert_close(found, torch.tensor([1 / 3, 1.0, 2 / 3, 0.0]))
        assert len(comparer.asked) == 12
        assert {prompt for *_, prompt in comparer.asked} == {PROMPT}
    quality = score(ComparerReward(Brighter(500.0), value="quality"), 10, 30, 20)
    torch.testing.assert_close(quality, torch.tensor([-15.0, 15.0, 0.0]))


def test_words_that_follow_the_place_alone_are_ties():
    reward = ComparerReward(Brighter(500.0, words=True))
    assert score(reward, 10, 30, 20).tolist() == [0.5] * 3
    assert reward.take_figures() == {"failed": (0, 3), "ties": (3, 3), "first": (6.0, 6)}


def test_the_shapes_comparer_ranks_as_its_people_do():
    reward = ComparerReward(ShapesComparer(3.0))
    assert (reward.name, reward.range) == ("shapes_comparer", (0.0, 1.0))
    assert reward.lineage == ("shapes_comparer", "shapes_annotators")
    assert "shapes_comparer judges by prompts of the shapes world alone" in reward.supports(["a photo"])
    assert reward.weight_bytes({"comparer": {"_target_": "evaluators.comparers.shapes.ShapesComparer"}}) == 0


def test_fewer_opponents_and_orders_cost_less_and_the_cost_is_told():
    comparer = Brighter()
    reward = ComparerReward(comparer, opponents=2, orders="once")
    score(reward, 10, 30, 20, 0, 5)
    assert len(comparer.asked) == 5
    assert reward.cost(20, 5) == "20 calls of brighter for 20 images in groups of 5, each pair once"
    assert ComparerReward(comparer).cost(64, 8).startswith("448 calls of brighter for 64 images in groups of 8, both")


def test_failed_pairs_are_left_out_and_counted_until_the_figures_are_taken():
    reward = ComparerReward(Brighter(fails=lambda one, other: {one, other} == {10, 30}))
    torch.testing.assert_close(score(reward, 10, 30, 20), torch.tensor([0.0, 1.0, 0.5]))
    assert reward.take_figures() == {"failed": (1, 3), "ties": (0, 2), "first": (2.0, 4)}
    assert reward.take_figures()["failed"] == (0, 0)


def test_training_stops_where_too_many_pairs_fail():
    reward = ComparerReward(Brighter(fails=lambda one, other: {one, other} == {10, 30}), max_failed=0.3)
    for _ in range(FEWEST // 3):  # one of three pairs; 99 of them are too few to tell
        score(reward, 10, 30, 20)
    with pytest.raises(UserError, match=r"brighter failed on 34 of 102 pairs, more than reward.max_failed=0.3;"):
        score(reward, 10, 30, 20)


def test_another_model_that_answers_stops_training():
    reward = ComparerReward(Brighter(models=["one"] * 6 + ["two"]))
    score(reward, 1, 2, 3)
    with pytest.raises(UserError, match="brighter: two answers now and one answered before"):
        score(reward, 1, 2, 3)


def test_words_have_no_quality():
    with pytest.raises(UserError, match=r"brighter answers in words, and reward.value=quality needs log-odds"):
        score(ComparerReward(Brighter(words=True), value="quality"), 1, 2, 3)


def test_images_of_two_prompts_or_one_image_are_no_group():
    reward = ComparerReward(Brighter())
    with pytest.raises(ValueError, match="compares images of one prompt"):
        reward.score(grey(1, 2), ["a", "b"])
    with pytest.raises(ValueError, match="got 1 of"):
        reward.score(grey(1), ["a"])
