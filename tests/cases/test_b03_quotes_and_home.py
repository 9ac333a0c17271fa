"""B3: a value that needs quotes is shown in the form that works, and `~` is the home folder everywhere."""

import shlex
import sys
from pathlib import Path

import pytest
from hydra._internal.utils import get_args_parser
from omegaconf import OmegaConf

from alignbench.cli import _rewrite_words
from alignbench.configuration.compose import as_composed, check_command_line, composed
from alignbench.configuration.find_evaluator import read_settings
from alignbench.configuration.typed.plain_values import settle
from alignbench.configuration.typed.words import parse_words, with_home
from alignbench.errors import UserError
from alignbench.export import arguments as export_arguments
from alignbench.soup import arguments as soup_arguments


def refusal(*words):
    with pytest.raises(UserError) as refused:
        parse_words(words)
    return str(refused.value)


@pytest.mark.parametrize(
    "value",
    ["/x/epoch=3-step=100/lora.safetensors", "/x/a b [1]/lora.safetensors", "/x/基线/lora", "/x/it's/a#b", "$HOME/a;b",
     "a=`b`", r"C:\x\y=1", "(a)", "http://host/a?b=1&c=2", "'open", "~user/x"],
)  # fmt: skip
def test_what_the_message_says_to_type_gives_the_value(value):
    word = f"model.policy={value}"
    told = refusal("seed=1", word)
    assert told.startswith(f"{word!r} is not understood, because of the characters in its value; put it in quotes")
    (typed,) = shlex.split(told.partition(", as in ")[2])  # what a shell hands over
    (override,) = parse_words([typed])
    assert override.key_or_group == "model.policy"
    assert override.value() == value.strip("'")


def test_entries_of_a_list_are_quoted_one_by_one():
    told = refusal("model.folders=[/x/基线,/x/b]")
    assert told.endswith("""as in "model.folders=['/x/基线',/x/b]\"""")
    (typed,) = shlex.split(told.partition(", as in ")[2])
    assert parse_words([typed])[0].value() == ["/x/基线", "/x/b"]


def test_a_blank_that_no_quotes_protect_is_told():
    told = refusal("prompts.path=/a", "b")
    assert told.endswith("""If it belongs to the word before it, type "prompts.path='/a b'\"""")
    assert "without blanks" in refusal("train.learning_rate", "=", "3")


# ---- the home folder


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("value", ["~/lora", "'~/lora'", '"~/lora"'])
def test_a_tilde_is_the_home_folder_whether_quoted_or_not(home, value):
    assert composed([f"model.policy={value}"]).model.policy == f"{home}/lora"


def test_it_is_in_lists_and_in_every_setting(home):
    cfg = composed([
        "model=images", "model.folders=[~/a, '~/b']", "results=~/r", "real_images=~/i", "evaluators=papers",
        "evaluators.pickscore.source=~/p", "prompts.path=~",
    ])  # fmt: skip
    assert cfg.model.folders == [f"{home}/a", f"{home}/b"]
    assert (cfg.results, cfg.real_images) == (f"{home}/r", f"{home}/i")
    assert cfg.evaluators.pickscore.source == f"{home}/p"
    assert cfg.prompts.path == str(home)
    assert settle(OmegaConf.create({"path": "~/x", "names": ["~/y"]})) == {"path": f"{home}/x", "names": [f"{home}/y"]}


def test_hydra_is_given_it_too(home, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["alignbench", "results=~/r", "-m"])
    args = get_args_parser().parse_args()
    _rewrite_words(args, as_composed(args.overrides))
    assert args.overrides == get_args_parser().parse_args().overrides == [f"results={home}/r"]


def test_other_programs_know_it_too(home):
    assert read_settings(["source=~/x"]) == {"source": f"{home}/x"}
    assert export_arguments(["~/run", "--format=lora", "--out=~/x"]).out == Path(home) / "x"
    assert soup_arguments(["~/a", "~/b", "--to=~/x"]).runs == [f"{home}/a", f"{home}/b"]


@pytest.mark.parametrize("word", ["a=x~/y", "a=b~", "~a", "a=50%~/", "a=~x"])
def test_no_other_tilde_is_touched(word):
    assert with_home([word]) == [word]


# ---- variables of the shell


@pytest.mark.parametrize("value", ["${HOME}/x", "$HOME/x"])
def test_a_variable_that_the_shell_has_not_filled_in_is_refused(value):
    for words in (["prompts=file", f"prompts.path={value}"], [f"results={value}"]):
        with pytest.raises(UserError) as refused:
            check_command_line(words, multirun=False)
        assert "variable of the shell" in str(refused.value)
        assert "${oc.env:HOME}" in str(refused.value)


def test_a_variable_in_the_form_that_is_told_works(home):
    assert composed(["results=${oc.env:HOME}/x"]).results == f"{home}/x"
    with pytest.raises(UserError, match=r"results=\$\{oc.env:NO_SUCH\} cannot be resolved: Environment variable"):
        composed(["results=${oc.env:NO_SUCH}"])
    with pytest.raises(UserError, match=r"results=\$\{nothing\} refers to nothing, which the configuration has not"):
        composed(["results=${nothing}"])
