"""How texts call a prompt set."""

import pytest

from alignbench.report.display import sections
from alignbench.report.hacking import findings
from alignbench.report.labels import prompt_set_names
from alignbench.report.markdown import markdown
from alignbench.report.tables import build
from alignbench.store.run_folder import run_folders


def add(world, method, prompt_set, path, **options):
    folder = world.run(method, [1, 2, 3, 4], prompt_set=prompt_set, **options)
    folder.config_file.write_text(f"prompts: {{name: file, path: {path}}}\n")
    return folder


@pytest.mark.parametrize(
    ("prompt_set", "path", "expected"),
    [
        ("prompts-a8b2dc88", "/somewhere/prompts.txt", "prompts.txt"),
        ("my_list-a8b2dc88", "my list.csv", "my list.csv"),
        ("prompts-a8b2dc88", "others.txt", "prompts-a8b2dc88"),
        ("shapes", "shapes.txt", "shapes"),
    ],
)
def test_a_list_of_prompts_is_called_by_its_file(world, prompt_set, path, expected):
    add(world, "base", prompt_set, path)
    assert prompt_set_names(run_folders(world.root), [prompt_set]) == {prompt_set: expected}


def test_two_lists_of_one_name_are_told_apart_by_their_hash(world):
    add(world, "base", "prompts-a8b2dc88", "prompts.txt")
    names = ["prompts-a8b2dc88", "prompts-00000000", "shapes"]
    assert prompt_set_names(run_folders(world.root), names) == {
        "prompts-a8b2dc88": "prompts.txt (a8b2dc88)",
        "prompts-00000000": "prompts.txt (00000000)",
        "shapes": "shapes",
    }


def test_texts_say_the_file_and_tables_keep_the_name_of_the_set(world):
    add(world, "base", "prompts-a8b2dc88", "prompts.txt")
    add(world, "sft", "prompts-a8b2dc88", "prompts.txt")
    tables = build(world.root)
    assert {row["prompt_set"] for row in tables.leaderboard} == {"prompts-a8b2dc88"}
    [section] = sections(tables)
    assert (section.where, section.prompt_set) == ("sd15_mini, prompts.txt", "prompts-a8b2dc88")
    assert "## sd15_mini, prompts.txt" in markdown(tables)
    assert findings(tables, "sd15_mini", "prompts-a8b2dc88") == []
