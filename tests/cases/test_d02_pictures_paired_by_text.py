"""A run and a folder of real pictures stand in one table: their prompts are paired by text."""

import json

import pytest
from PIL import Image

from alignbench.data.existing_images.folders import read_compared_folders, read_image_folders
from alignbench.errors import UserError
from tests.program import alignbench, rows

CAPTIONS = {"p0": "a red circle", "p1": "a blue cross", "p2": "a green square", "p3": "a yellow cross"}


def pictures(folder, captions, **columns):
    """Write a folder of real pictures with a list of captions; columns are functions of the number of the picture."""
    folder.mkdir()
    lines = []
    for number, caption in enumerate(captions):
        Image.new("RGB", (64, 64), (40 * number, 90, 120)).save(folder / f"{number}.png")
        lines.append({"file_name": f"{number}.png", "text": caption, **{k: v(number) for k, v in columns.items()}})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


@pytest.fixture
def run(world):
    """A run with images of its own prompt set."""
    return world.run("dpo", [1, 2, 3, 4], prompts=CAPTIONS, prompt_set="mine", picture="white")


def test_a_run_and_real_pictures_are_paired_by_the_text_of_their_prompts(run, tmp_path):
    real = pictures(tmp_path / "real", [*reversed(CAPTIONS.values()), "a prompt of its own"])
    first, second = read_compared_folders([str(real), str(run.path)])
    assert len(first.images & second.images) == 4
    text = {record.prompt_id: record.prompt for record in first.records}
    assert all(text[record.prompt_id] == record.prompt for record in second.records)
    assert (first.label, second.label, first.prompt_set, second.prompt_set) == ("real", "dpo", "own", "own")


def test_lists_whose_ids_differ_are_paired_by_text_as_well(tmp_path):
    """One list numbers its prompts, the other has no ids."""
    numbered = pictures(tmp_path / "numbered", CAPTIONS.values(), prompt_id=lambda number: f"{number:05d}")
    plain = pictures(tmp_path / "plain", CAPTIONS.values())
    first, second = read_compared_folders([str(numbered), str(plain)])
    assert first.images == second.images


def test_one_id_with_two_texts_is_refused_as_ever(tmp_path):
    """Then ids are meant to pair them, and one of the lists is wrong."""
    folders = [
        pictures(tmp_path / name, texts, prompt_id=lambda number: f"{number:05d}")
        for name, texts in (("a", ["a cat", "a dog"]), ("b", ["a cat", "a bird"]))
    ]
    with pytest.raises(UserError, match="give different prompts different ids"):
        read_compared_folders([str(folder) for folder in folders])


def test_folders_without_a_common_prompt_are_refused(run, tmp_path):
    real = pictures(tmp_path / "real", ["something else"])
    with pytest.raises(UserError, match="share no prompt, neither by its id nor by its text"):
        read_compared_folders([str(real), str(run.path)])


def test_ids_of_scores_stay_where_folders_are_not_compared_by_text(run):
    """Pairs of a run's own images are found by the ids of its scores."""
    [folder] = read_image_folders([str(run.path)])
    assert {record.prompt_id for record in folder.records} == set(CAPTIONS)


@pytest.mark.slow
def test_they_stand_in_one_table(run, tmp_path):
    real = pictures(tmp_path / "real", CAPTIONS.values())
    root = tmp_path / "table"
    alignbench(
        "model=images", f"model.folders=[{real},{run.path}]", "evaluators=shapes", f"results={root}",
        "calibration=false",
    )  # fmt: skip
    found = {(row["method"], row["n"]) for row in rows(root / "leaderboard.csv") if row["group"] == "all"}
    assert found == {("base", "4"), ("dpo", "4")}
