"""Readers of human annotations: what is published is read, and what is not as published is refused in a sentence."""

import io
import json

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from alignbench.card.human.lists import GenAIBenchLi, HPDv2Test, ImageRewardTest
from alignbench.card.human.pairs import MMRB2, GenAIBenchJiang, PickAPicTest
from alignbench.card.human.records import Pairs, Record, digest, picture
from alignbench.card.human.shapes import ShapesPeople
from alignbench.card.rules import BOTH_BAD, FIRST
from alignbench.errors import UserError


def png(level):
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (level,) * 3).save(file, "PNG")
    return file.getvalue()


def files(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(9))


def write(path, values):
    path.write_text(json.dumps(values))
    return str(path)


def test_lower_ranks_are_better(tmp_path):
    files(tmp_path, "a.png", "b.png", "c.png")
    entry = {"prompt": "a cat", "image_path": ["a.png", "b.png", "c.png"], "rank": [2.5, 1, 3]}
    (found,) = HPDv2Test(write(tmp_path / "test.json", [entry]), str(tmp_path)).records
    assert found.worth.tolist() == [-2.5, -1, -3]
    assert Pairs.of([found]).worth.tolist() == [-1.5, 0.5, 2]
    assert picture(found.images[0]).size == (16, 16)


def test_ratings_of_genai_bench_are_averaged_and_images_found_by_model(tmp_path):
    files(tmp_path, "DALLE_3/00001.jpeg", "SDXL/00001.png")
    entry = {"00001": {"prompt": "a cat", "models": {"DALLE_3": [5, 4, 3], "SDXL": [1, 1, 2]}}}
    (found,) = GenAIBenchLi(write(tmp_path / "genai_image.json", entry), str(tmp_path)).records
    assert found.worth == pytest.approx([4, 4 / 3])
    assert [file.name for file in found.images] == ["00001.jpeg", "00001.png"]


def test_pairs_of_mmrb2_have_a_chosen_one_and_the_texts_of_the_prompt(tmp_path):
    files(tmp_path, "images/x_0.jpg", "images/x_1.jpg")
    sides = {f"response_{side}": {"response_content": [["image", f"images/x_{n}.jpg"]]} for n, side in enumerate("ab")}
    pair = {"chosen": "B", "prompt_source": "wise", "prompt_content": [["text", "a"], ["text", "cat"]], **sides}
    (found,) = MMRB2(write(tmp_path / "t2i.json", {"pairs": [pair]}), str(tmp_path)).records
    assert (found.prompt, found.group, found.worth.tolist()) == ("a cat", "wise", [0, 1])
    with pytest.raises(UserError, match=r'pair 1 of .* has no "chosen" that is A or B'):
        MMRB2(write(tmp_path / "t2i.json", {"pairs": [pair | {"chosen": "C"}]}), str(tmp_path)).read()


def test_votes_in_tables_are_read_with_their_images(tmp_path):
    columns = {"caption": ["a", "b"], "jpg_0": [png(1), png(2)], "jpg_1": [png(3), png(4)], "label_0": [0.5, 1.0]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "test_unique.parquet")
    tie, first = PickAPicTest(str(tmp_path)).records
    assert (tie.worth.tolist(), first.worth.tolist()) == ([0.5, 0.5], [1, 0])
    assert picture(first.images[1]).getpixel((0, 0)) == (4, 4, 4)
    images = [{"bytes": png(1), "path": "x"}, {"bytes": png(2), "path": "y"}]
    columns = {"prompt": ["a", "b"], "left_image": images, "right_image": images}
    votes = parquet_file = tmp_path / "votes" / "image_generation.parquet"
    parquet_file.parent.mkdir()
    parquet.write_table(pyarrow.table(columns | {"vote_type": ["leftvote", "bothbad_vote"]}), votes)
    found = GenAIBenchJiang(str(votes)).records
    assert [(one.vote, one.worth.tolist()) for one in found] == [(FIRST, [1, 0]), (BOTH_BAD, [0.5, 0.5])]


def test_files_outside_the_folder_of_the_images_are_refused(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(1))
    (tmp_path / "images").mkdir()
    for name in ("../secret.png", str(secret)):
        entry = {"prompt": "a", "generations": [name, name], "ranking": [1, 2]}
        data = ImageRewardTest(write(tmp_path / "test.json", [entry]), str(tmp_path / "images"))
        with pytest.raises(UserError, match=r"is not within human_pairs\.imagereward\.images="):
            data.read()


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"a": 1}, "is not a list of objects"),
        ([{"prompt": 3, "generations": ["a.png", "b.png"], "ranking": [1, 2]}], 'has no text in "prompt"'),
        ([{"prompt": "a", "generations": "a.png", "ranking": [1, 2]}], 'no list of file names in "generations"'),
        ([{"prompt": "a", "generations": ["a.png", "b.png"], "ranking": [1]}], 'not one number in "ranking"'),
        ([{"prompt": "a", "generations": ["a.png", "b.png"], "ranking": [1, "2"]}], 'not one number in "ranking"'),
        ([{"prompt": "a", "generations": ["a.png", "gone.png"], "ranking": [1, 2]}], r"gone\.png does not exist"),
        ([], "has no two images of one prompt"),
    ],
)
def test_annotations_that_are_not_as_published_are_refused(tmp_path, entries, message):
    files(tmp_path, "a.png", "b.png")
    data = ImageRewardTest(write(tmp_path / "test.json", entries), str(tmp_path))
    with pytest.raises(UserError, match=message):
        assert data.records


def test_paths_that_do_not_exist_are_refused_before_anything_is_read(tmp_path):
    with pytest.raises(UserError, match=r"human_pairs\.hpdv2\.path=.* does not exist"):
        HPDv2Test(str(tmp_path / "test.json"), str(tmp_path))
    with pytest.raises(UserError, match=r"human_pairs\.pickapic\.path=.* is no \.parquet file"):
        PickAPicTest(str(tmp_path))


def test_a_larger_number_of_prompts_keeps_those_of_a_smaller_one():
    class Many(ShapesPeople):
        def read(self):
            return [Record(f"prompt {n % 10}", (Image.new("RGB", (9, 9)),) * 2, np.array([1.0, 0])) for n in range(20)]

    few, more = (Many().chosen(num) for num in (3, 5))
    assert len({one.prompt for one in few}) == 3
    assert len(few) == 6, "all records of a prompt go together"
    assert {one.prompt for one in few} < {one.prompt for one in more}
    assert digest(few) != digest(more)


def test_people_of_the_shapes_world_prefer_what_their_utility_says():
    (found,) = ShapesPeople(num_prompts=1, num_images=4).records
    pairs = Pairs.of([found])
    assert found.chance + found.chance.T == pytest.approx(np.ones((4, 4)))
    apart = np.abs(pairs.worth) > 1
    assert (np.sign(pairs.worth) == np.sign(pairs.chance - 0.5))[apart].all()
    assert digest([found]) == digest(ShapesPeople(num_prompts=1, num_images=4).records), "the same for ever"
