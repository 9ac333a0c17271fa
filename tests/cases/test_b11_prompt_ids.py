"""B11: images of the same prompts are paired however their ids are written; numbers are ids, too."""

import json

import pytest
from PIL import Image

from alignbench.data.existing_images.folders import is_by_text, read_compared_folders, read_image_folders
from alignbench.data.prompts import read_prompts
from alignbench.errors import UserError

TEXTS = ["a red cat", "a blue dog", "two birds"]


def folder(path, ids, texts=TEXTS):
    """A folder with a list of images; no ids for None."""
    path.mkdir()
    rows = []
    for number, text in enumerate(texts):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(path / f"{number}.png")
        row = {"file": f"{number}.png", "prompt": text}
        rows.append(row if ids is None else {**row, "prompt_id": ids[number]})
    (path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(path)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["00000", "00001", "00002"], ["0", "1", "2"]),
        (["00000", "00001", "00002"], [0, 1, 2]),
        (["0", "1", "2"], [0.0, 1.0, 2.0]),
        (["a", "b", "c"], None),
        (None, [7, 8, 9]),
        (["0", "1", "2"], ["1", "2", "3"]),  # counted from 1
        (["0", "1", "2"], ["2", "0", "1"]),
        (["00000", "1", "2"], ["0", "1", "2"]),
    ],
)
def test_the_same_texts_are_paired_whatever_their_ids(tmp_path, one, other):
    first, second = read_compared_folders([folder(tmp_path / "a", one), folder(tmp_path / "b", other)])
    assert first.images == second.images
    assert len(first.images) == 3
    assert {r.prompt_id: r.prompt for r in first.records} == {r.prompt_id: r.prompt for r in second.records}


def test_ids_that_agree_pair_as_they_are(tmp_path):
    first, second = read_compared_folders([folder(tmp_path / "a", [0, 1, 2]), folder(tmp_path / "b", ["0", "1", "2"])])
    assert [record.prompt_id for record in first.records] == ["0", "1", "2"]
    assert not is_by_text(second)


def test_one_text_that_differs_under_an_id_is_still_refused(tmp_path):
    paths = [folder(tmp_path / "a", [0, 1, 2]), folder(tmp_path / "b", [0, 1, 2], [*TEXTS[:2], "two  birds"])]
    with pytest.raises(UserError, match=r"prompt 2 is 'two birds' in .* and 'two  birds' in"):
        read_compared_folders(paths)


def test_no_prompt_in_common_shows_one_of_each(tmp_path):
    paths = [folder(tmp_path / "a", [0, 1, 2]), folder(tmp_path / "b", [3, 4, 5], ["x", "y", "z"])]
    with pytest.raises(UserError, match=r"the first of each: 'a red cat' and 'x'\)$"):
        read_compared_folders(paths)


@pytest.mark.parametrize(("value", "prompt_id"), [(3, "3"), (3.0, "3"), ("003", "003")])
def test_numbers_are_ids_of_prompts_to_generate(tmp_path, value, prompt_id):
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": "a cat", "prompt_id": value}))
    assert [one.prompt_id for one in read_prompts(tmp_path / "p.jsonl")] == [prompt_id]


@pytest.mark.parametrize("value", [True, None, 3.5, [1]])
def test_anything_else_is_no_id(tmp_path, value):
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": "a cat", "prompt_id": value}))
    with pytest.raises(UserError, match='has no text in column "prompt_id"'):
        read_prompts(tmp_path / "p.jsonl")


def test_numbers_are_ids_of_images_that_exist(tmp_path):
    (read,) = read_image_folders([folder(tmp_path / "a", [0, 1, 2])])
    assert [record.prompt_id for record in read.records] == ["0", "1", "2"]
