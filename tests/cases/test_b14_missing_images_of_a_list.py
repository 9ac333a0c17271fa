r"""A list whose images are missing shows the path of the first, such as images\a.png written on Windows."""

import json

import pyarrow
import pytest
from pyarrow import parquet

from alignbench.errors import UserError

WINDOWS = "images\\a.png"


@pytest.fixture
def folder(tmp_path, encoded):
    """The images that the lists mean, for a program that knows this separator."""
    for place in ("images", "train/images"):
        (tmp_path / place).mkdir(parents=True)
        for name in "ab":
            (tmp_path / place / f"{name}.png").write_bytes(encoded(50, kind="PNG"))
    return tmp_path


def local(folder):
    row = {"prompt": "p", "image_w": "images/b.png", "image_l": WINDOWS}
    (folder / "pairs.jsonl").write_text(json.dumps(row))
    return "local", folder, folder


def hpdv2(folder):
    entry = {"prompt": "p", "image_path": [WINDOWS, "images/b.png"], "human_preference": [1, 0]}
    (folder / "train.json").write_text(json.dumps([entry]))
    return "hpdv2", folder, folder / "train"


def imagerewarddb(folder):
    rows = [
        {"prompt_id": "1", "prompt": "p", "image_path": image, "rank": rank}
        for rank, image in ((1, "images/b.png"), (2, WINDOWS))
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "metadata-train.parquet")
    return "imagerewarddb", folder, folder


def kto_csv(folder):
    (folder / "list.csv").write_text(f"file_path,caption,label\n{WINDOWS},p,1\n")
    return "kto_csv", folder, folder


def captions(folder):
    (folder / "metadata.csv").write_text(f"file_name,text\n{WINDOWS},p\n")
    return "captions", folder, folder


@pytest.mark.parametrize("write", [local, hpdv2, imagerewarddb, kto_csv, captions])
def test_the_first_missing_path_is_shown(folder, source, write):
    name, path, place = write(folder)
    data = source(name, path=str(path))
    with pytest.raises(UserError) as told:
        _ = data.kept
    assert str(told.value) == (
        f"data={name} holds nothing to train on: 1 filtered out (missing image, the first is {place / WINDOWS})"
    )


def test_the_count_and_the_first_of_several_missing_images_are_in_the_header_of_a_run(folder, source):
    names = ("images/b.png", "x.png", "images/b.png", WINDOWS)
    rows = [{"prompt": str(number), "image_w": "images/a.png", "image_l": name} for number, name in enumerate(names)]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = source("local", path=str(folder))
    assert len(data.view("pairs")) == 2
    assert data.summary() == f"2 filtered out (missing image, the first is {folder / 'x.png'})"
