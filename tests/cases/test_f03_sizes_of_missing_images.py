"""The kept headers of images belong to the right images, wherever files are missing and in whatever order lists are."""

import json
from itertools import permutations

import numpy as np
import pytest

from alignbench.data.storage.image_headers import image_headers
from alignbench.data.storage.image_store import Files

SIZES = {"a.png": (9, 12), "b.png": (10, 13), "c.png": (11, 14)}


@pytest.fixture
def folder(tmp_path, encoded):
    for name, (height, width) in SIZES.items():
        (tmp_path / name).write_bytes(encoded(50, (width, height), "PNG"))
    return tmp_path


def write(folder, *pairs):
    rows = [{"prompt": f"{winner} {loser}", "image_w": winner, "image_l": loser} for winner, loser in pairs]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))


def kept(data):
    return [(sample.image_w.key, sample.image_l.key) for sample in data.view("pairs")]


def test_reordering_the_lines_keeps_the_good_pair_and_drops_the_missing_one(folder, source):
    lines = [("a.png", "missing.png"), ("a.png", "b.png")]
    for order in (lines, lines[::-1], lines):
        write(folder, *order)
        data = source("local", path=str(folder))
        assert kept(data) == [("a.png", "b.png")]
        assert data.num_filtered == {"missing image": 1}


def test_a_name_that_is_added_and_missing_drops_its_pair_alone(folder, source):
    write(folder, ("a.png", "b.png"))
    assert kept(source("local", path=str(folder))) == [("a.png", "b.png")]
    write(folder, ("a.png", "b.png"), ("b.png", "missing.png"))
    assert kept(source("local", path=str(folder))) == [("a.png", "b.png")]
    write(folder, ("missing.png", "other.png"), ("b.png", "missing.png"), ("a.png", "b.png"))
    assert kept(source("local", path=str(folder))) == [("a.png", "b.png")]


def test_a_file_that_comes_later_is_used(folder, source, encoded):
    write(folder, ("a.png", "late.png"), ("a.png", "b.png"))
    assert kept(source("local", path=str(folder))) == [("a.png", "b.png")]
    (folder / "late.png").write_bytes(encoded(70, (20, 20), "PNG"))
    assert len(kept(source("local", path=str(folder)))) == 2


@pytest.mark.parametrize("num_missing", [1, 2])
def test_sizes_are_right_with_missing_files_in_every_position(folder, num_missing):
    names = [*SIZES, *(f"missing_{number}.png" for number in range(num_missing))]
    for order in permutations(names):
        store = Files(folder)
        numbers = [store.add(name) for name in order]
        found = image_headers(store, np.array(numbers))[:, :2].tolist()
        assert [tuple(size) if size[0] > 0 else None for size in found] == [SIZES.get(name) for name in order]


def test_data_that_keep_other_images_have_other_fingerprints_where_files_are_missing(folder, source):
    # of both, the images 1 and 2 are kept, and the files are a.png, b.png and c.png in this order
    lists = {
        ("a.png", "b.png"): [
            {"prompt": "p", "image_w": "missing.png", "image_l": "a.png"},
            {"prompt": "p", "image_w": "a.png", "image_l": "b.png"},
            {"prompt": "p", "image_w": "missing.png", "image_l": "c.png"},
        ],
        ("b.png", "c.png"): [
            {"prompt": "p", "images": ["a.png", "b.png"], "ranks": [1, 1]},
            {"prompt": "p", "image_w": "b.png", "image_l": "c.png"},
            {"prompt": "p", "image_w": "missing.png", "image_l": "c.png"},
        ],
    }
    fingerprints = set()
    for pair, rows in lists.items():
        (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
        data = source("local", path=str(folder))
        assert kept(data) == [pair]
        fingerprints.add(data.fingerprint)
    assert len(fingerprints) == 2
