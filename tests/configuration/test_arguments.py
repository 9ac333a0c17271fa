"""Values of `_target_` nodes: what a constructor is not annotated for is refused before it is called."""

import pytest
from omegaconf import OmegaConf

from alignbench.configuration.arguments import check_arguments
from alignbench.configuration.build import build, conf_folder
from alignbench.configuration.compose import composed
from alignbench.errors import UserError


@pytest.mark.parametrize(
    ("override", "key", "sentence"),
    [
        ("method.beta=abc", "method", "method.beta=abc must be a number above 0"),
        ("method.beta=true", "method", "method.beta=true must be a number above 0"),
        ("method.labels=sof", "method", "method.labels=sof is unknown; did you mean soft? available: hard, soft"),
        ("method.safeguard=on", "method", "method.safeguard=on must be a number, or null"),
        ("data.num_pairs=2.5", "data", "data.num_pairs=2.5 must be a whole number"),
        ("data.annotators.spread=wide", "data", "data.annotators.spread=wide must be a number"),
        ("prompts.limit=ten", "prompts", "prompts.limit=ten must be a whole number, or null"),
    ],
)
def test_a_value_of_another_type_is_named_with_what_it_must_be(override, key, sentence):
    with pytest.raises(UserError) as refused:
        build(composed(["method=dpo", "model=sd15_mini", override])[key])
    assert str(refused.value) == sentence


def test_all_wrong_values_of_a_node_are_told_together():
    node = composed(["method=dpo", "model=sd15_mini", "method.beta=abc", "method.prompt_dropout=[1]"]).method
    with pytest.raises(UserError) as refused:
        check_arguments(node)
    assert str(refused.value).count("\n") == 1


def test_what_is_not_a_plain_value_is_left_to_the_constructor():
    check_arguments(OmegaConf.create({"_target_": "torch.optim.AdamW", "betas": "any", "params": 3}))


@pytest.mark.parametrize("group", ["method", "data", "prompts", "evaluator", "auxiliary"])
def test_the_values_that_ship_are_of_the_types_that_constructors_name(group):
    """Those of files that stand alone, but for values that follow others or are missing."""
    for file in sorted((conf_folder() / group).glob("*.yaml")):
        values = OmegaConf.to_container(OmegaConf.load(file))
        if "defaults" not in values:
            told = {key: value for key, value in values.items() if value != "???" and "${" not in str(value)}
            check_arguments(OmegaConf.create(told))
