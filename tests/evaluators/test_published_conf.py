"""The files of the published evaluators say what their classes do, and build them."""

import inspect

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from alignbench.configuration.build import conf_folder
from evaluators.hpsv2 import HPSv2

WITH_TOWER = ["pickscore", "hpsv2_0", "hpsv2_1", "clip_score", "clip_score_l14", "aesthetic", "aesthetic_v2_5", "hpsv3"]
REWARDS = {"hpsv2_1": 1.0, "pickscore": 5.0, "clip_score": 5.0, "aesthetic": None}


def composed(group, name):
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose(f"{group}/{name}")[group]


@pytest.mark.parametrize("name", WITH_TOWER)
def test_a_file_lists_every_argument_with_the_default_of_its_class(name):
    node = OmegaConf.to_container(composed("evaluator", name))
    target = get_class(node.pop("_target_"))
    parameters = inspect.signature(target).parameters
    unlisted = {"architecture"} if name == "aesthetic_v2_5" else set()
    assert node.keys() == parameters.keys() - unlisted
    for key, value in node.items():
        default = parameters[key].default
        assert value == default or default in (inspect.Parameter.empty, None), key


@pytest.mark.parametrize("name", ["difference", "softmax"])
def test_sgp_hps_is_built_on_hpsv2_1(name, weights):
    node = composed("evaluator", f"sgp_hps_{name}")
    node.hpsv2.source = weights["hpsv2_1"]
    evaluator = instantiate(node)
    assert evaluator.name == f"sgp_hps_{name}"
    assert isinstance(evaluator.hpsv2, HPSv2)
    assert evaluator.hpsv2.name == "hpsv2_1"


@pytest.mark.parametrize("name", REWARDS)
def test_rewards_have_the_published_scale_and_save_memory(name, weights, tokenizer_folder):
    node = composed("reward", name)
    node.source = weights["clip_score_l14" if name == "aesthetic" else name]
    if name == "pickscore":
        node.tokenizer = str(tokenizer_folder)
    reward = instantiate(node)
    assert reward.name == name
    assert reward.gradient_checkpointing
    if REWARDS[name] is not None:
        assert reward.embedding_scale == REWARDS[name]


def test_the_evaluators_of_the_papers_are_the_five_of_smpo():
    node = OmegaConf.load(conf_folder() / "evaluators" / "papers.yaml")
    names = [next(iter(entry.values())) for entry in node.defaults]
    assert names == ["pickscore", "hpsv2_1", "image_reward", "aesthetic", "clip_score"]
    assert [next(iter(entry)) for entry in node.defaults] == [f"/evaluator@{name}" for name in names]
