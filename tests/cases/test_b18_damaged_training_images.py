"""B18: prepare goes through all training images, names every damaged one, lists them and goes on without them."""

import io
import json

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from alignbench.data.storage.image_store import UnusableImageError
from tests.program import alignbench, manifests

COMMON = [
    "method=sft", "model=sd15_mini", "train.max_train_steps=1", "train.total_batch_size=2",
    "train.micro_batch_size=2", "evaluators=shapes",
]  # fmt: skip


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def picture(seed, kind="JPEG"):
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def broken_inside(seed):
    """A PNG whose header and end are whole, so that only decoding it shows the damage."""
    content = bytearray(picture(seed, "PNG"))
    content[len(content) // 2] ^= 0xFF
    return bytes(content)


def pickapic(folder, damaged):
    rows = [
        {
            "caption": f"prompt {number}", "jpg_0": damaged.get(number, picture(number)),
            "jpg_1": picture(100 + number),
            "label_0": 1.0, "label_1": 0.0, "has_label": True, "image_0_uid": f"a{number}", "image_1_uid": f"b{number}",
            "user_id": 1,
        }
        for number in range(6)
    ]  # fmt: skip
    (folder / "data").mkdir(parents=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "data" / "train-00000-of-00001.parquet")
    return ["data=pickapic", f"data.path={folder}"]


def local(folder, damaged):
    folder.mkdir()
    rows = []
    for number in range(6):
        content = damaged.get(number, picture(number))
        if content is not None:
            (folder / f"{number}.png").write_bytes(content)
        (folder / f"{number}-l.png").write_bytes(picture(100 + number))
        rows.append({"prompt": f"prompt {number}", "image_w": f"{number}.png", "image_l": f"{number}-l.png"})
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return ["data=local", f"data.path={folder}"]


def test_all_damaged_images_are_named_listed_and_left_out(tmp_path, source, monkeypatch):
    words = pickapic(tmp_path / "images", {1: picture(1)[:700], 4: b"no picture"})
    done = alignbench(
        *COMMON, *words, "data.check_images=false", "stages=[prepare,train]", f"results={tmp_path}/results"
    )
    told = " ".join(done.stdout.split())
    assert "prepare: 2 images of data=pickapic cannot be used, and are left out:" in told
    file = tmp_path / "results" / "cache" / "exclude-pickapic.txt"
    listed = file.read_text().splitlines()
    assert len(listed) == 2
    for key in listed:
        assert f"\n  {key} " in done.stdout
    assert "pickapic, 4 pairs; 2 filtered out (unreadable image, the first is " in told
    (manifest,) = manifests(tmp_path / "results").values()
    assert manifest["completed"]["train"]

    path = str(tmp_path / "images")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
    assert len(source("pickapic", path=path, check_images=False).view("pairs")) == 6
    data = source("pickapic", path=path, check_images=False, exclude=str(file))
    assert len(data.view("pairs")) == 4
    assert data.summary() == "2 filtered out (excluded)"


def test_damage_that_headers_do_not_show_and_files_that_are_missing_are_found(tmp_path):
    words = local(tmp_path / "images", {3: broken_inside(3), 5: None})
    done = alignbench(*COMMON, *words, "stages=[prepare]", f"results={tmp_path}/results")
    assert "prepare: 1 images of data=local cannot be used, and are left out:" in done.stdout
    assert (tmp_path / "results" / "cache" / "exclude-local.txt").read_text() == "3.png\n"
    assert "prepare: all is there" in done.stdout


def test_training_alone_stops_and_says_what_finds_all(tmp_path, source):
    local(tmp_path / "images", {3: b"no picture", 5: None})
    data = source("local", path=str(tmp_path / "images"), check_images=False)
    for row in (3, 5):
        with pytest.raises(UnusableImageError, match=rf"{row}.png .*with stages=\[prepare\] finds all such images at"):
            _ = data.view("pairs")[row].image_w.pixels
        assert data.address(f"{row}.png")  # although there may be no file to hash


def test_the_error_survives_the_way_from_a_process_that_reads(tmp_path):
    error = UnusableImageError("a.png", "is missing")
    kind, arguments = error.__reduce__()
    again = kind(*arguments)
    assert (again.key, again.fault, str(again)) == ("a.png", "is missing", str(error))
