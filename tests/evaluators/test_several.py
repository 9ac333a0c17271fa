"""A sum of rewards scores, and is followed, as the weighted sum of its parts."""

import sys
from functools import cached_property
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from alignbench.configuration.build import build, run_name
from alignbench.configuration.compose import check_command_line, composed
from alignbench.configuration.typed.reward_sums import with_reward_sums
from alignbench.errors import UserError
from alignbench.evaluator import Evaluator, Reward, weight_bytes
from alignbench.online.rewards import ImageScorer
from alignbench.store.training_data import digests
from evaluators.networks.preprocess import ClipPixels, Pictures
from evaluators.several import Several

PROMPTS = ["a red circle", "two blue squares"]


class Brightness(Reward):
    """The mean of all colours, 0..1."""

    version = "1"
    preprocess = Pictures()

    def __init__(self, name="brightness", labelled_by=(), learned=()):
        self.name, self.labelled_by, self.learned = name, tuple(labelled_by), digests(learned)

    @property
    def training_data(self):
        return self.learned

    @classmethod
    def weight_bytes(cls, settings):
        return 100

    def encode_prompts(self, prompts):
        return list(prompts)

    def score_features(self, features, encoded):
        return torch.tensor([np.asarray(image).mean() / 255 for image in features]).float()

    def reward(self, pixels, prompts):
        return pixels.mean(dim=(1, 2, 3))


class Networked(Brightness):
    """The same with a network."""

    @cached_property
    def network(self):
        return nn.Linear(2, 2)


class Length(Evaluator):
    """The number of words of the prompt; the lower the better. It has no gradient."""

    name, version, higher_is_better = "length", "2", False
    preprocess = ClipPixels(64)

    def encode_prompts(self, prompts):
        return [float(len(prompt.split())) for prompt in prompts]

    def score_features(self, features, encoded):
        return torch.tensor(encoded)

    def supports(self, prompts):
        return "length judges no empty prompts" if "" in prompts else None


def pictures():
    return [Image.new("RGB", (64, 64), (value,) * 3) for value in (51, 204)]


# ---- scores


def test_scores_are_the_weighted_sum_of_those_of_the_parts_with_lower_turned_round():
    """0.2 and 0.8 times 3; 3 words each, of which fewer are better, times 0.5."""
    several = Several({"bright": Brightness(), "short": Length()}, {"bright": 3.0, "short": 0.5})
    torch.testing.assert_close(several.score(pictures(), PROMPTS), torch.tensor([0.6 - 1.5, 2.4 - 1.5]))


def test_methods_that_compare_see_each_part_in_its_own_scale():
    several = Several({"bright": Brightness(), "short": Length()}, {"short": 0.5})
    scorer = ImageScorer(several)
    scorer.add(torch.stack([torch.full((3, 64, 64), 0.2), torch.full((3, 64, 64), 0.8)]), PROMPTS)
    torch.testing.assert_close(scorer.scores(), torch.tensor([[0.2, 3.0], [0.8, 3.0]]))
    assert {name: weight for name, (weight, _) in several.components.items()} == {"bright": 1.0, "short": -0.5}


def test_a_reward_alone_is_a_sum_of_itself_and_lower_scores_count_negative():
    assert Brightness().components["brightness"][0] == 1.0
    assert Length().components["length"][0] == -1.0


def test_the_gradient_is_the_weighted_sum_of_those_of_the_parts():
    several = Several({"one": Brightness(), "two": Brightness()}, {"one": 2.0, "two": -0.5})
    pixels = torch.rand(2, 3, 8, 8, requires_grad=True)
    rewards = several.reward(pixels, PROMPTS)
    torch.testing.assert_close(rewards, 1.5 * pixels.mean(dim=(1, 2, 3)))
    rewards.sum().backward()
    torch.testing.assert_close(pixels.grad, torch.full_like(pixels, 1.5 / (3 * 8 * 8)))


def test_a_part_without_a_gradient_is_named_where_one_is_asked_for():
    several = Several({"bright": Brightness(), "short": Length()}, {})
    with pytest.raises(UserError, match="reward short gives scores without a gradient"):
        several.reward(torch.rand(2, 3, 8, 8), PROMPTS)


# ---- what it says of itself


def test_lineage_and_training_data_are_those_of_all_parts():
    one = Brightness("one", labelled_by=["votes"], learned=["a", "b"])
    two = Brightness("two", labelled_by=["votes", "clip"], learned=["b", "c"])
    several = Several({"one": one, "two": two}, {})
    assert several.lineage == ("one", "votes", "two", "clip")
    assert np.array_equal(several.training_data, digests(["a", "b", "c"]))
    assert several.supports(PROMPTS) is None
    assert Several({"one": one, "short": Length()}, {}).supports([""]) == "length judges no empty prompts"


def test_sums_of_other_parts_or_weights_have_other_versions():
    one, two = Brightness("one"), Brightness("two")
    sums = [
        Several({"one": one}, {}),
        Several({"one": one, "two": two}, {}),
        Several({"one": one, "two": two}, {"two": 2.0}),
    ]
    assert len({several.version for several in sums}) == 3
    assert Several({"one": Brightness("one")}, {"one": 1.0}).version == sums[0].version


def test_the_weights_of_the_parts_are_added_up_without_building_them():
    node = {"_target_": "tests.evaluators.test_several.Brightness"}
    assert weight_bytes(Several, {"components": {"a": node, "b": node}, "weights": {}}) == 200
    unknown = {"_target_": "evaluators.remote.Remote", "url": "http://127.0.0.1:8000"}
    assert weight_bytes(Several, {"components": {"a": node, "b": unknown}, "weights": {}}) is None


def test_networks_of_the_parts_are_placed_and_released_together():
    parts = {"one": Networked(), "two": Networked(), "program": Brightness()}
    several = Several(parts, {})
    network = several.network
    assert isinstance(network, nn.ModuleDict)
    assert dict(network.items()) == {"one": parts["one"].network, "two": parts["two"].network}
    several.to("meta")
    assert parts["two"].network.weight.device.type == several.device.type == "meta"
    several.release()
    assert "network" not in vars(parts["one"])
    assert several.network is not network
    assert Several({"program": Brightness()}, {}).network is None


def test_a_sum_of_nothing_and_weights_of_nothing_are_refused():
    with pytest.raises(UserError, match=r"type them as in reward=\[pickscore,clip_score\]"):
        Several({}, {})
    with pytest.raises(UserError, match=r"reward\.weights\.brigth is of no reward; did you mean bright"):
        Several({"bright": Brightness()}, {"brigth": 1.0})
    wrong: list[Any] = [True, "2", float("nan")]
    for weight in wrong:
        with pytest.raises(UserError, match=r"reward\.weights\.bright=.* must be a number"):
            Several({"bright": Brightness()}, {"bright": weight})


# ---- the command line

NFT = ["method=nft", "model=sd15_mini"]
BOTH = "reward=[shapes_clip,shapes_preference]"


def test_a_list_of_rewards_is_their_sum_with_the_values_of_conf_reward():
    cfg = composed([*NFT, "reward.weights.shapes_clip=0.5", BOTH, "reward.components.shapes_clip.embedding_scale=2.0"])
    reward = build(cfg.method.reward)
    assert {name: weight for name, (weight, _) in reward.components.items()} == {
        "shapes_clip": 0.5,
        "shapes_preference": 1.0,
    }
    assert [one.embedding_scale for one in reward.evaluators.values()] == [2.0, 5.0]
    assert check_command_line([*NFT, BOTH], False) == 1
    assert check_command_line([*NFT, BOTH, "reward.weights.shapes_clip=0.5,2"], True) == 2


def test_one_reward_is_what_it_was_in_a_list_or_not():
    assert run_name(composed([*NFT, "reward=[shapes_clip]"])) == run_name(composed([*NFT, "reward=shapes_clip"]))
    words = ["-m", "reward=shapes_clip,shapes_preference", "memory=[offload,checkpointing]"]
    assert with_reward_sums(words) == words


def test_the_order_of_a_sum_does_not_change_the_name_of_a_run_and_its_weights_do():
    name = run_name(composed([*NFT, BOTH]))
    assert run_name(composed([*NFT, "reward=[shapes_preference,shapes_clip]"])) == name
    assert run_name(composed([*NFT, BOTH, "reward.weights.shapes_clip=1.0"])) == name
    assert run_name(composed([*NFT, BOTH, "reward.weights.shapes_clip=2"])) != name


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["reward=[shapes_clip,shapes_clip]"],
            r"names shapes_clip twice; count it twice by reward.weights.shapes_clip=2",
        ),
        (["reward=[shapes_clip,shapes_klip]"], "reward=shapes_klip is unknown; did you mean shapes_clip"),
        ([BOTH, "reward.weights.shapes=2"], r"reward\.weights\.shapes is of no reward; did you mean"),
        (["reward=several"], "has no rewards to add up"),
    ],
)
def test_sums_that_mean_nothing_are_refused(words, sentence):
    with pytest.raises(UserError, match=sentence):
        check_command_line([*NFT, *words], False)


REMOTE = "reward.components.remote.url=http://127.0.0.1:1"


@pytest.mark.parametrize("method", ["srpo", "direct_align"])
def test_a_method_that_follows_a_gradient_refuses_a_sum_with_a_part_without_one(method):
    words = [f"method={method}", "model=sd15_mini"]
    with pytest.raises(UserError, match=r"evaluators.remote.Remote gives scores alone; choose .* gradient: awm, .*nft"):
        check_command_line([*words, "reward=[shapes_clip,remote]", REMOTE], False)
    assert check_command_line([*words, BOTH], False) == 1


BLACK_BOXES = {
    "remote": ["url=http://127.0.0.1:1"],
    "function": ["name=mine", "version=1", "function=json:dumps"],
    "program": ["name=mine", "version=1", f"command=[{sys.executable}]"],
    "ocr_rapid": [],
}


@pytest.mark.parametrize("name", BLACK_BOXES)
def test_black_boxes_are_rewards_of_methods_that_compare_and_of_no_others(name):
    words = ["model=sd15_mini", f"reward={name}", *(f"reward.{word}" for word in BLACK_BOXES[name])]
    assert check_command_line(["method=nft", *words], False) == 1
    assert check_command_line(["method=smpo", *words], False) == 1
    with pytest.raises(UserError, match=r"method=srpo follows the gradient of its reward, and .* gives scores alone"):
        check_command_line(["method=srpo", *words], False)


def test_a_scorer_of_which_the_lower_is_the_better_is_refused():
    words = ["model=sd15_mini", "reward=function", *(f"reward.{word}" for word in BLACK_BOXES["function"])]
    with pytest.raises(UserError, match=r"method=smpo takes the image with the higher score .* the negative score"):
        check_command_line(["method=smpo", *words, "reward.higher_is_better=false"], False)
