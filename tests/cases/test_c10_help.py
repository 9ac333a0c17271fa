"""C10: help on two screens, our own version, and completion of the shell for `alignbench`."""

import importlib.util
import sys

import alignbench
from alignbench import cli
from alignbench.configuration.build import choices, conf_folder
from alignbench.configuration.compose import unchecked
from alignbench.configuration.usage import EXAMPLES, FLAGS, GROUPS, PROGRAMS, usage
from tests.program import alignbench as program

BELOW_ANOTHER = {  # read through the choice of another group, or by other programs
    "accelerate", "evaluator", "feature", "human_pairs", "hydra", "judge", "online", "preset", "recipe", "trained_as",
    "train", "train_reward", "world",
}  # fmt: skip


def test_every_group_that_people_choose_from_has_its_line_with_all_choices():
    folders = {folder.name for folder in conf_folder().iterdir() if folder.is_dir()}
    assert set(GROUPS) == folders - BELOW_ANOTHER
    words = usage().split()
    for group in GROUPS:
        assert set(choices(group)) - {"default"} <= set(words)


def test_it_fits_80_columns():
    assert max(map(len, usage().splitlines())) <= 80


def test_its_examples_are_understood_and_its_programs_exist():
    for command in EXAMPLES:
        words = command.split()[3:]
        found = unchecked([word for word in words if word != "-m"])
        assert found is not None
        assert found.is_sweep == ("-m" in words)
    for name in PROGRAMS:
        assert importlib.util.find_spec(f"alignbench.{name}")


def test_the_version_is_that_of_the_package(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["alignbench", "--version"])
    cli.main()
    assert capsys.readouterr().out == f"alignbench {alignbench.__version__}\n"


def test_the_shell_completes_as_the_help_says(monkeypatch):
    assert 'eval "$(alignbench -sc install=bash)"' in FLAGS["-sc install=bash"]
    assert "-F hydra_bash_completion alignbench" in program("-sc", "install=bash").stdout
    for typed, completed in {"method=srp": ["srpo", "srpo_paper", "srpo_released"], "memory=off": ["offload"]}.items():
        monkeypatch.setenv("COMP_LINE", f"alignbench {typed}")
        found = program("-sc", "query=bash").stdout.split()
        assert found == [f"{typed.partition('=')[0]}={name}" for name in completed]
