"""B12: names in any script are kept, in tables as in folders."""

import unicodedata

import pytest

from alignbench.configuration.compose import composed
from alignbench.data.existing_images.folders import read_compared_folders
from alignbench.data.prompts import file, path_safe
from alignbench.serve.protocol import is_name
from alignbench.train_reward.checks import _check_name
from tests.cases.test_b11_prompt_ids import folder
from tests.program import alignbench, rows

NAMES = ["基线", "方法", "базовая", "モデル-2", "modèle"]


def test_labels_of_folders_are_their_names(tmp_path):
    folders = read_compared_folders([folder(tmp_path / name, None) for name in NAMES])
    assert [one.label for one in folders] == NAMES


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_an_accent_has_one_form_on_all_systems(form):
    assert path_safe(unicodedata.normalize(form, "modèle")) == unicodedata.normalize("NFC", "modèle")


@pytest.mark.parametrize(
    ("name", "safe"), [("a/b", "a_b"), ("../x", "x"), ("基线 (2)", "基线_2"), ("a\0b<c>", "a_b_c")]
)
def test_what_a_file_name_cannot_hold_is_still_replaced(name, safe):
    assert path_safe(name) == safe


@pytest.mark.parametrize("name", NAMES)
def test_a_reward_model_may_have_such_a_name(name):
    assert is_name(name)
    _check_name(name)


def test_prompts_and_their_ids_may_have_such_names(tmp_path):
    (tmp_path / "提示.jsonl").write_text('{"prompt": "一只猫", "prompt_id": "猫"}', encoding="utf-8")
    found = file("file", str(tmp_path / "提示.jsonl"), None)
    assert found.name.startswith("提示-")
    assert [one.prompt_id for one in found] == ["猫"]


def test_a_comparison_of_such_folders_ends_in_a_table(tmp_path):
    given = ",".join(f"'{folder(tmp_path / name, None)}'" for name in NAMES[:2])
    results = tmp_path / "结果"
    alignbench(
        "model=images", f"model.folders=[{given}]", "evaluators=none", "+evaluator@evaluators.a=shapes_clip",
        f"results='{results}'", "calibration=false",
    )  # fmt: skip
    assert {row["method"] for row in rows(results / "leaderboard.csv")} == {"base", "方法"}
    assert {row["model"] for row in rows(results / "leaderboard.csv")} == {"基线_images"}
    assert composed([f"name='{NAMES[0]}'"]).name == NAMES[0]
