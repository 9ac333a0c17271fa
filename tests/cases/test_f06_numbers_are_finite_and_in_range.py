"""F6: every number of the configuration is finite and in its range, or refused in a sentence before anything loads."""

import pytest
from omegaconf import OmegaConf

from alignbench.configuration.build import choices, conf_folder
from alignbench.configuration.compose import check_command_line, composed
from alignbench.configuration.targets import target_object
from alignbench.errors import UserError
from alignbench.settings.arguments import wrong_arguments

FEW = ("dpo", "kto")
METHODS = [
    name if name in FEW else pytest.param(name, marks=pytest.mark.matrix)
    for name in choices("method")
    if name != "base"
]
MODEL = ["model=sd15_mini", "reward=shapes_clip"]


def refusal(*words):
    with pytest.raises(UserError) as refused:
        check_command_line(["method=dpo", *MODEL, *words], multirun=False)
    return str(refused.value)


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("train.learning_rate=1e400", "train.learning_rate=inf must be a number above 0 and of at most 1e+06"),
        ("train.learning_rate=nan", "train.learning_rate=nan must be a number above 0 and of at most 1e+06"),
        ("method.beta=-1", "method.beta=-1 must be a number above 0"),
        ("method.beta=1e400", "method.beta=inf must be a number above 0"),
        ("method.prompt_dropout=3", "method.prompt_dropout=3 must be a number from 0 to 1"),
        ("validation.every=nan", "validation.every=nan must be a whole number of at least 1, or null"),
        ("data.num_votes=1e400", "data.num_votes=inf must be a whole number, or null"),
        ("data.fault_share=7", "data.fault_share=7 must lie in 0..1"),
        ("seed=18446744073709551616", "seed=18446744073709551616 must be a whole number of at most 64 bits"),
        ("prompts.limit=-1", "prompts.limit=-1 must be at least 1, or null for all 384 prompts"),
    ],
)
def test_it_is_named_with_what_it_must_be(word, sentence):
    assert refusal(word) == sentence


@pytest.mark.parametrize(
    "word", ["train.optimizer.weight_decay=nan", "train.optimizer.weight_decay=-1", "train.optimizer.eps=-1",
             "train.optimizer.eps=1e400", "train.optimizer.betas=[2,0.9]", "train.optimizer.betas=[nan,0.9]"]
)  # fmt: skip
def test_an_optimizer_is_asked_what_it_takes(word):
    assert "train.optimizer" in refusal(word)


def numbers(node, prefix=""):
    """Yield the key of every number in a node, entries of lists among them."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{key}"


@pytest.mark.parametrize("bad", ["nan", "1e400", "-1e400"])
@pytest.mark.parametrize("method", METHODS)
def test_no_number_of_a_method_is_allowed_to_be_infinite(method, bad):
    values = OmegaConf.to_container(composed([f"method={method}", *MODEL]).method)
    assert isinstance(values, dict)
    cfg = OmegaConf.create(values)
    for key in set(numbers(values)):
        path, _, last = key.rpartition(".")
        node, value = OmegaConf.select(cfg, path) if path else cfg, {last: float(bad)}
        if "_target_" not in node:  # an argument that is a mapping
            path, _, last = path.rpartition(".")
            node, value = OmegaConf.select(cfg, path) if path else cfg, {last: value}
        wrong = wrong_arguments(target_object(node["_target_"]), value)
        assert wrong, f"method.{key}={bad} is accepted"


BELOW_ZERO = {"seed", "margin", "gain_constant", "image_reward"}  # what may be any number
DATA = {"pnapo": ["data=runs", "data.path=.", "data.evaluator=shapes_clip"]}  # where it is not that of the model


@pytest.mark.parametrize("method", METHODS)
def test_no_number_of_a_method_is_allowed_to_be_below_its_range(method):
    values = OmegaConf.to_container(composed([f"method={method}", *MODEL]).method)
    assert isinstance(values, dict)
    for key in set(numbers(values)):
        if key.rpartition(".")[2] in BELOW_ZERO:
            continue
        with pytest.raises(UserError, match=key.rpartition(".")[2]):
            check_command_line([f"method={method}", *MODEL, *DATA.get(method, ()), f"method.{key}=-7"], multirun=False)


def test_entries_of_lists_are_checked_too():
    with pytest.raises(UserError, match=r"method.window.ends=nan must be a number"):
        check_command_line(["method=srpo", *MODEL, "method.window.ends=[0.9,nan]"], multirun=False)


@pytest.mark.parametrize("group", ["data", "prompts", "evaluator", "judge", "sampling", "reward"])
def test_every_number_of_a_constructor_has_a_declared_type(group):
    """So that it is at least finite; a number without an annotation would be taken as it is."""
    for file in (conf_folder() / group).glob("*.yaml"):
        node = OmegaConf.to_container(OmegaConf.load(file))
        assert isinstance(node, dict)
        if "_target_" not in node:
            continue
        for key in numbers({k: v for k, v in node.items() if not isinstance(v, dict)}):
            assert wrong_arguments(target_object(node["_target_"]), {key: float("nan")}) or key in (
                "label_noise", "noise_seed", "heldout_share", "min_side",  # declared as settings
            ), f"{file}: {key}"  # fmt: skip
