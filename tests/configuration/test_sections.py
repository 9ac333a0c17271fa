"""Sections of the configuration: Hydra's defaults are the declared ones, and wrong values end in sentences."""

import pytest
from omegaconf import OmegaConf

from alignbench.configuration.compose import check_command_line, composed
from alignbench.configuration.sections import REWARD_SECTIONS, SECTIONS, check_settings
from alignbench.errors import UserError


def lines(*overrides):
    with pytest.raises(UserError) as refused:
        check_command_line(["method=dpo", "model=sd15_mini", *overrides], False)
    return str(refused.value).split("\n")


@pytest.fixture(scope="module")
def command():
    return composed(["method=dpo", "model=sd15_mini"])


@pytest.mark.parametrize("name", ["train", "sampling", "validation"])
def test_hydra_takes_the_defaults_of_a_section_from_its_declaration(name):
    node = OmegaConf.to_container(composed(["method=base", "model=sd15_mini"])[name])
    assert node.keys() == SECTIONS[name].model_fields.keys()
    declared = {key: value for key, value in SECTIONS[name].defaults().items() if value != "???"}
    assert {key: node[key] for key in declared} == declared


@pytest.mark.parametrize("word", ["+train.foo=3", "+foo=3", "++sampling.foo=3", "+tracker.foo=3", "+metod=dpo"])
def test_a_setting_that_nothing_reads_is_refused(word):
    (line,) = lines(word)
    assert line.startswith(f"{word.partition('=')[0].lstrip('+')} is unknown")
    assert "available: " in line


def test_a_setting_that_no_training_of_a_reward_model_reads_is_refused():
    with pytest.raises(UserError, match=r"^train\.foo is unknown"):
        check_settings(composed(["+train.foo=3"], program="train_reward"), REWARD_SECTIONS)


def test_an_auxiliary_loss_that_is_none_is_refused():
    assert lines("+auxiliary.foo=1") == [
        "auxiliary.foo=1 is no loss; add one by auxiliary=NAME, as auxiliary=denoising"
    ]


def test_all_wrong_settings_of_a_command_are_told_together():
    assert lines("seed=x", "train.max_train_steps=0", "sampling.seed=1.5", "data.posterior=mod") == [
        "seed=x must be a whole number of at most 64 bits",
        "train.max_train_steps=0 must be a whole number of at least 1",
        "sampling.seed=1.5 must be a whole number of at most 64 bits",
        "data.posterior=mod is unknown; did you mean mode? available: sample, mode",
    ]


def test_a_setting_that_follows_a_wrong_one_is_not_blamed():
    assert lines("model.num_inference_steps=0") == ["model.num_inference_steps=0 must be a whole number of at least 1"]


def test_a_setting_that_follows_one_which_is_not_declared_is_named():
    assert lines("train.learning_rate=${method.name}") == [
        "train.learning_rate=dpo must be a number above 0 and of at most 1e+06"
    ]


def test_a_setting_that_follows_nothing_is_refused():
    (line,) = lines("train.learning_rate=${nowhere}")
    assert line == "train.learning_rate=${nowhere} refers to nowhere, which the configuration has not"


def test_auxiliary_losses_are_a_section_each():
    assert lines("auxiliary=denoising", "auxiliary.denoising.weight=much") == [
        "auxiliary.denoising.weight=much must be a number above 0"
    ]


@pytest.mark.parametrize("section", SECTIONS)
def test_every_declared_setting_of_a_command_is_checked(command, section):
    for key in SECTIONS[section].model_fields:
        cfg = command.copy()
        node = OmegaConf.select(cfg, section) if section else cfg
        if key in node:
            node[key] = [[]]
            with pytest.raises(UserError, match=f"^{section}\\.?{key}=\\["):
                check_settings(cfg)


@pytest.mark.parametrize("wrong", ["shard=3", "stages=repor", "dry_run=2", "stages=[generate]"])
def test_images_that_exist_are_checked_by_the_same_declarations(wrong):
    with pytest.raises(UserError, match=wrong.split("=")[0]):
        check_command_line(["model=images", "model.folders=[a]", wrong], False)
