"""The command that a run's configuration is read back as composes to that configuration again."""

import shlex

import pytest
import yaml
from omegaconf import OmegaConf

from alignbench.configuration.compose import composed
from alignbench.errors import UserError
from alignbench.exports.command import command_of
from alignbench.store.run_folder import RunFolder


@pytest.fixture
def told(tmp_path):
    """Return a function that stores the configuration of a command as a run does, and reads it back as a command."""

    def tell(*words):
        cfg = composed(list(words))
        (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=True))
        return command_of(RunFolder(tmp_path))

    return tell


@pytest.mark.parametrize(
    "words",
    [
        ["method=srpo", "model=flux_mini", "reward=shapes_preference", "method.negative_words=['flat, dark',noisy]"],
        [
            "method=dpo",
            "model=sdxl_mini",
            "optimizer=adamw8bit",
            "prompts=parti",
            "prompts.limit=4",
            "seed=3",
            "train.learning_rate=1e-5",
        ],
        ["method=kto", "model=sd15_mini", "data=hub_labels", "data.path=owner/name", "data.num_samples=8"],
    ],
)
def test_the_words_compose_to_the_same_configuration(told, words):
    command = told(*words)
    assert command.is_whole
    program, *rest = shlex.split(command.text.removeprefix("python -m "))
    assert program == "alignbench"
    again, before = (OmegaConf.to_container(composed(one), resolve=True) for one in (rest, words))
    for key in ("method", "model", "data", "train", "prompts", "sampling", "seed"):
        assert again[key] == before[key]


def test_defaults_are_not_typed_and_paths_of_the_machine_are_not_told(told):
    text = told("method=dpo", "model=sd15_mini", "data=local", "data.path=/home/me/pairs").text
    assert "data=local data.path=PATH" not in told("method=base", "model=sd15_mini").text
    assert "data.path=PATH" in text
    assert "/home" not in text
    assert "learning_rate" not in text


def test_what_no_word_sets_is_said(told, tmp_path):
    told("method=dpo", "model=sd15_mini")
    values = yaml.safe_load((tmp_path / "config.yaml").read_text())
    values["method"]["forgotten"] = 1
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    assert not command_of(RunFolder(tmp_path)).is_whole
    values["method"]["name"] = "of_somebody_else"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    assert command_of(RunFolder(tmp_path)) is None
    del values["train"]  # as of images that existed already
    del values["method"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    assert command_of(RunFolder(tmp_path)) is None


@pytest.mark.parametrize("content", [b"", b"name: x\n  : [bad", b"\xff", b"[1]"])
def test_a_damaged_configuration_is_named(tmp_path, content):
    file = tmp_path / "config.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError, match="put the right file back") as refused:
        command_of(RunFolder(tmp_path))
    assert str(file) in str(refused.value)
