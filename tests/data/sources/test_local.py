import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from alignbench.data.sources.local import Prompts
from alignbench.errors import UserError

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


@pytest.fixture
def folder(tmp_path):
    for name, colour in COLOURS.items():
        Image.new("RGB", (6, 4), colour).save(tmp_path / f"{name}.png")
    whole = (tmp_path / "red.png").read_bytes()
    (tmp_path / "corrupt.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("not an image")
    return tmp_path


@pytest.fixture
def pairs(source):
    def build(folder, *rows, **values):
        (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return source("local", path=str(folder), **values)

    return build


def labelled(label_0, prompt="p", image_0="red.png", image_1="green.png"):
    return {"prompt": prompt, "image_0": image_0, "image_1": image_1, "label_0": label_0}


def test_winner_and_loser_are_read_with_their_pixels(folder, pairs):
    source = pairs(folder, {"prompt": "p", "image_w": "red.png", "image_l": "green.png", "probability_w": 0.8})
    (pair,) = source.view("pairs")
    assert (pair.prompt, pair.probability_w) == ("p", 0.8)
    for picture, colour in ((pair.image_w, "red"), (pair.image_l, "green")):
        assert np.array_equal(picture.pixels, np.broadcast_to(np.array(COLOURS[colour], np.uint8), (4, 6, 3)))


def test_a_label_of_zero_swaps_and_one_half_is_dropped_and_counted(folder, pairs):
    source = pairs(folder, labelled(1), labelled(0, "q"), labelled(0.5, "r"), labelled(0.5, "s"))
    assert [(pair.prompt, pair.image_w.key, pair.probability_w) for pair in source.view("pairs")] == [
        ("p", "red.png", 1.0),
        ("q", "green.png", 1.0),
    ]
    assert source.num_filtered == {"tie": 2}
    assert source.prompts == ["p", "q"]


@pytest.mark.parametrize("broken", ["corrupt.png", "text.png", "missing.png"])
@pytest.mark.parametrize("place", ["image_0", "image_1"])
def test_an_image_that_cannot_be_read_drops_the_whole_pair(folder, broken, place, pairs):
    source = pairs(folder, labelled(1), labelled(1, "q") | {place: broken})
    assert [pair.prompt for pair in source.view("pairs")] == ["p"]
    assert [sample.prompt for sample in source.view("images")] == ["p"]
    reason = "missing image" if broken == "missing.png" else "unreadable image"
    assert source.num_filtered == {reason: 1}
    assert source.summary() == f"1 filtered out ({reason}, the first is {folder / broken})"


def test_winners_and_labels_follow_from_the_pairs(folder, pairs):
    source = pairs(folder, labelled(1), labelled(0, image_1="blue.png"))
    assert [sample.image.key for sample in source.view("images")] == ["red.png", "blue.png"]
    assert {(sample.image.key, sample.desirable) for sample in source.view("labels")} == {
        ("red.png", True),
        ("green.png", False),
        ("blue.png", True),
    }
    assert [sample.prompt for sample in source.view("prompts")] == ["p"]


def test_the_fingerprint_follows_the_pixels_and_the_labels(folder, pairs):
    before = pairs(folder, labelled(1)).fingerprint
    assert pairs(folder, labelled(1)).fingerprint == before
    assert pairs(folder, labelled(0)).fingerprint != before
    Image.new("RGB", (6, 4), (254, 0, 0)).save(folder / "red.png")
    assert pairs(folder, labelled(1)).fingerprint != before


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "image_w": "red.png"}, "line 1 of .* is not a pair: image_l is missing"),
        ({"image_w": "red.png", "image_l": "green.png"}, "prompt is missing"),
        (labelled(2), "label_0=2 must lie in 0..1"),
        (labelled(True), "label_0 must be a number"),
        ({"prompt": "p", "image_w": "a", "image_l": "b", "probability_w": 0.2}, "probability_w=0.2 must lie in 0.5..1"),
        (labelled(1, prompt=3), "prompt must be text"),
        (["p"], "line 1 of .* is not a JSON object"),
        (labelled(0.5), r"data=local holds nothing to train on: 1 filtered out \(tie\)"),
    ],
)
def test_a_list_that_cannot_be_used_is_told_in_one_sentence(folder, row, message, pairs):
    with pytest.raises(UserError, match=message):
        _ = pairs(folder, row).prompts


def test_a_folder_without_a_list_or_with_two_is_refused(tmp_path, source):
    with pytest.raises(Exception, match=r"holds no pairs\.jsonl and pairs\.csv; expected one"):
        source("local", path=str(tmp_path))
    for name in ("pairs.jsonl", "pairs.csv"):
        (tmp_path / name).touch()
    with pytest.raises(Exception, match="holds both"):
        source("local", path=str(tmp_path))


def test_a_folder_without_a_readable_pair_is_refused(folder, pairs):
    source = pairs(folder, labelled(1, image_0="missing.png"))
    with pytest.raises(UserError, match=r"holds nothing to train on: 1 filtered out .missing image"):
        source.view("pairs")


def test_a_prompt_file_gives_its_distinct_prompts_and_nothing_else(tmp_path):
    (tmp_path / "a.txt").write_text("a\nb\na\n")
    source = Prompts("prompts", str(tmp_path / "a.txt"))
    assert [sample.prompt for sample in source.view("prompts")] == source.prompts == ["a", "b"]
    assert source.num_filtered == {"repeated prompt": 1}
    assert source.provides == {"prompts"}
    with pytest.raises(ValueError, match="has prompts only, no pairs"):
        source.view("pairs")


def test_an_image_is_decoded_when_its_pixels_are_asked_for_and_addressed_by_what_is_in_its_file(folder, pairs):
    source = pairs(folder, labelled(1))
    (pair,) = source.view("pairs")
    assert source.address("red.png") == hashlib.sha256((folder / "red.png").read_bytes()).hexdigest()
    (folder / "green.png").unlink()
    assert pair.image_w.pixels.shape == (4, 6, 3)
    with pytest.raises(UserError, match=r"the training image green.png is missing"):
        _ = pair.image_l.pixels


RANKED = {"prompt": "p", "images": ["red.png", "green.png", "blue.png"]}


@pytest.mark.parametrize("grades", [{"ranks": [2, 1, 2]}, {"scores": [0.1, 0.7, 0.1]}])
def test_every_two_images_of_different_rank_make_a_pair_and_equal_ranks_are_ties(folder, pairs, grades):
    source = pairs(folder, RANKED | grades)
    assert [(pair.image_w.key, pair.image_l.key) for pair in source.view("pairs")] == [
        ("green.png", "red.png"),
        ("green.png", "blue.png"),
    ]
    assert source.num_filtered == {"tie": 1}


def test_ranks_and_images_of_different_number_are_refused(folder, pairs):
    with pytest.raises(UserError, match=r"line 1 of .* is not a pair: it has 3 images and 2 ranks or scores"):
        _ = pairs(folder, RANKED | {"ranks": [1, 2]}).prompts


def test_pairs_may_be_listed_in_a_csv_file(folder, source):
    (folder / "pairs.csv").write_text('prompt,image_w,image_l\n"a, b",red.png,green.png\n')
    (pair,) = source("local", path=str(folder)).view("pairs")
    assert (pair.prompt, pair.image_w.key, pair.image_l.key, pair.probability_w) == ("a, b", "red.png", "green.png", 1)
