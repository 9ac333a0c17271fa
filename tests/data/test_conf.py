"""The files of conf/data and conf/prompts build what they promise."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from alignbench.data.prompts import PromptSet
from alignbench.data.source import DataSource

CONF = Path(__file__).resolve().parents[2] / "conf"


def load(group, name, **values):
    return instantiate(OmegaConf.merge(OmegaConf.load(CONF / group / f"{name}.yaml"), values))


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("shapes", 384),
        ("hpdv2", 3200),
        ("parti", 1632),
        ("drawbench", 200),
        ("geneval", 553),
        ("pickapic_test", 487),
        ("imagereward_test", 466),
        ("text_rendering", 1018),
    ],
)
def test_a_prompt_set_is_whole_unless_a_limit_is_given(name, size):
    whole, part = load("prompts", name), load("prompts", name, limit=12)
    assert isinstance(whole, PromptSet)
    assert (whole.name, len(whole), len(part), part.full_size) == (name, size, 12, size)


def test_a_file_of_prompts_is_a_prompt_set_and_a_data_source(tmp_path):
    (tmp_path / "mine.txt").write_text("a\nb\n")
    assert load("prompts", "file", path=str(tmp_path / "mine.txt")).texts == ["a", "b"]
    assert load("data", "prompts", path=str(tmp_path / "mine.txt")).prompts == ["a", "b"]


def test_a_folder_of_pairs_is_a_data_source(tmp_path, source):
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "image_w": "w.png", "image_l": "l.png"}\n')
    assert source("local", path=str(tmp_path)).prompts == ["a"]


def test_sources_have_the_rules_of_their_kind_with_the_defaults_of_one_file():
    files = sorted((CONF / "data").glob("*.yaml"))
    shared = {}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for file in files:
            kind = next((line for line in file.read_text().split("\n") if line.startswith("  - options/")), None)
            if kind:
                node = compose(f"data/{file.stem}").data
                options = compose(f"data/{kind.strip('- ').partition('@')[0]}").data.options
                shared[file.stem] = {str(key) for key in options if node[key] != options[key]}
    assert len(shared) == len(files) - 2  # but shapes and prompts
    assert {name: keys for name, keys in shared.items() if keys} == {"pickapic": {"check_images"}}


def test_the_shapes_world_is_a_data_source_of_every_kind():
    source = load("data", "shapes", num_prompts=4)
    assert isinstance(source, DataSource)
    assert source.provides == {"prompts", "images", "labels", "pairs"}
    assert len(source.view("prompts")) == 4
