"""SRPO's control words belong to a world; a reward model of somebody's own pairs has none until they are typed."""

import pytest

from alignbench.configuration.build import run_name
from alignbench.configuration.compose import composed
from alignbench.configuration.data_checks import check_control_words
from alignbench.errors import UserError


@pytest.fixture
def reward_model(monkeypatch):
    """Let every path hold the reward model anna, of pairs of a data set."""

    def learned_from(name):
        record = type("Record", (), {"name": "anna", "data": {"name": name}})
        monkeypatch.setattr("alignbench.store.reward_model_folder.RewardModelRecord.read", lambda _: record)

    return learned_from


def method(*overrides):
    return composed(["model=sd15_mini", "reward=judge", "reward.path=JUDGE", *overrides]).method


@pytest.mark.parametrize("name", ["srpo", "srpo_paper"])
def test_words_of_the_shapes_world_are_refused_for_a_taste_of_ones_own(reward_model, name):
    reward_model("local")
    with pytest.raises(UserError) as refused:
        check_control_words(method(f"method={name}"))
    message = str(refused.value)
    assert "anna learned from data=local" in message
    assert "method.negative_words=flat,noisy,outlined" in message
    assert "add method.positive_words=[WANTED] method.negative_words=[UNWANTED]" in message
    assert "or choose method=direct_align" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "overrides",
    [
        ["method=srpo", "method.positive_words=[flat]", "method.negative_words=[shaded]"],
        ["method=srpo", "method.positive_words=[shaded]", "method.negative_words=[flat,noisy,outlined]"],
        ["method=direct_align"],
        ["method=dpo"],
    ],
)
def test_typed_words_and_methods_without_words_are_fine(reward_model, overrides):
    reward_model("local")
    check_control_words(method(*overrides))


def test_one_kind_of_words_is_not_enough(reward_model):
    reward_model("local")
    with pytest.raises(UserError, match=r"method\.negative_words=flat"):
        check_control_words(method("method=srpo", "method.positive_words=[flat]"))


def test_a_reward_model_of_the_shapes_world_keeps_its_words(reward_model):
    reward_model("shapes")
    check_control_words(method("method=srpo"))


def test_a_shipped_reward_keeps_its_words():
    check_control_words(composed(["method=srpo", "model=sd15_mini"]).method)


def test_the_same_words_typed_are_the_same_run():
    typed = ["method.positive_words=[shaded]", "method.negative_words=[flat,noisy,outlined]"]
    assert run_name(composed(["method=srpo"])) == run_name(composed(["method=srpo", *typed]))
