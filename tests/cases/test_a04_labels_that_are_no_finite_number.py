"""A label, score, rank, rating or vote that is no finite number makes no winner: the row is left out and counted."""

import hashlib
import io
import json
import tarfile

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from alignbench.data.source import decide
from alignbench.data.sources.labels import number_or_nan
from alignbench.errors import UserError
from alignbench.store.image_records import PromptRecord, SamplingRecord, write_prompts, write_sampling
from alignbench.store.manifest import Manifest
from alignbench.store.run_folder import RunFolder
from alignbench.store.scores import ScoreInfo, Scores

GOOD = ("a good pair", "0.png", "1.png")  # of every source: the first image wins
JSON_VALUES = ["NaN", "Infinity", "-Infinity", "null", "1e999", "1" + "0" * 400]
CELLS = ["nan", "NaN", "inf", "-inf", "", "null", "None", "1e999"]
FLOATS = [float("nan"), float("inf"), float("-inf"), None]


@pytest.fixture
def folder(tmp_path, encoded):
    """Three images."""
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(encoded(50 * number, kind="PNG"))
    return tmp_path


def won(data):
    return [(sample.prompt, sample.image_w.key[-5:], sample.image_l.key[-5:]) for sample in data.view("pairs")]


def only_the_good_pair(data, dropped=1):
    assert won(data) == [GOOD]
    assert data.num_filtered == {"no label": dropped}
    assert f"{dropped} filtered out (no label)" in data.summary()


# ---- data=local


@pytest.mark.parametrize("value", JSON_VALUES)
@pytest.mark.parametrize(
    "row",
    [
        '{"prompt": "a cat", "images": ["0.png", "1.png"], "scores": [0.9, VALUE]}',
        '{"prompt": "a cat", "images": ["0.png", "1.png"], "scores": [VALUE, 0.9]}',
        '{"prompt": "a cat", "images": ["0.png", "1.png"], "scores": [VALUE, VALUE]}',
        '{"prompt": "a cat", "images": ["0.png", "1.png"], "ranks": [1, VALUE]}',
        '{"prompt": "a cat", "image_0": "0.png", "image_1": "1.png", "label_0": VALUE}',
        '{"prompt": "a cat", "image_w": "0.png", "image_l": "1.png", "probability_w": VALUE}',
    ],
    ids=["second score", "first score", "both scores", "rank", "label_0", "probability_w"],
)
def test_a_pair_of_pairs_jsonl_without_a_finite_number_is_dropped_and_counted(folder, source, row, value):
    good = json.dumps({"prompt": GOOD[0], "images": ["0.png", "1.png"], "scores": [0.9, 0.1]})
    (folder / "pairs.jsonl").write_text(f"{row.replace('VALUE', value)}\n{good}\n")
    only_the_good_pair(source("local", path=str(folder)))


def test_the_other_images_of_a_ranked_list_still_make_pairs(folder, source):
    row = '{"prompt": "p", "images": ["0.png", "1.png", "2.png"], "scores": [0.9, NaN, 0.1]}'
    (folder / "pairs.jsonl").write_text(row)
    data = source("local", path=str(folder))
    assert won(data) == [("p", "0.png", "2.png")]
    assert data.num_filtered == {"no label": 2}


@pytest.mark.parametrize("value", CELLS)
@pytest.mark.parametrize("columns", ["prompt,image_0,image_1,label_0", "prompt,image_w,image_l,probability_w"])
def test_a_row_of_pairs_csv_without_a_finite_number_is_dropped_and_counted(folder, source, columns, value):
    (folder / "pairs.csv").write_text(f"{columns}\na cat,0.png,1.png,{value}\n{','.join(GOOD)},1\n")
    only_the_good_pair(source("local", path=str(folder)))


@pytest.mark.parametrize("repeats", ["drop", "keep", "vote"])
def test_a_vote_that_is_no_number_does_not_count_as_a_vote(folder, source, repeats):
    rows = [(*GOOD, 1.0), (*GOOD, float("nan")), (*GOOD, float("inf"))]
    names = ("prompt", "image_0", "image_1", "label_0")
    (folder / "pairs.jsonl").write_text("\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows))
    data = source("local", path=str(folder), repeats=repeats)
    only_the_good_pair(data, dropped=2)
    assert data.view("pairs")[0].probability_w == 1.0


# ---- published lists


@pytest.mark.parametrize("value", JSON_VALUES)
@pytest.mark.parametrize(("part", "column", "good"), [("train", "human_preference", [1, 0]), ("test", "rank", [1, 2])])
def test_an_entry_of_hpdv2_without_a_finite_number_is_dropped_and_counted(folder, source, part, column, good, value):
    (folder / part).mkdir()
    for name in ("0.png", "1.png"):
        (folder / name).rename(folder / part / name)
    entry = '{"prompt": PROMPT, "image_path": ["0.png", "1.png"], "COLUMN": GRADES}'.replace("COLUMN", column)
    entries = [
        entry.replace("PROMPT", '"a cat"').replace("GRADES", f"[1, {value}]"),
        entry.replace("PROMPT", json.dumps(GOOD[0])).replace("GRADES", json.dumps(good)),
    ]
    (folder / f"{part}.json").write_text(f"[{', '.join(entries)}]")
    only_the_good_pair(source("hpdv2", path=str(folder), part=part))


@pytest.mark.parametrize("value", FLOATS)
@pytest.mark.parametrize("grade", ["rank", "overall_rating", "image_text_alignment_rating", "fidelity_rating"])
def test_an_image_of_imagerewarddb_without_a_finite_grade_makes_no_pair(folder, source, grade, value):
    better, worse = (1.0, 2.0) if grade == "rank" else (2.0, 1.0)
    rows = [
        ("a cat", "0.png", better),
        ("a cat", "1.png", value),
        (GOOD[0], "0.png", better),
        (GOOD[0], "1.png", worse),
    ]
    table = [{"prompt_id": text, "prompt": text, "image_path": image, grade: number} for text, image, number in rows]
    parquet.write_table(pyarrow.Table.from_pylist(table), folder / "metadata-train.parquet")
    only_the_good_pair(source("imagerewarddb", path=str(folder), grade=grade))


def test_a_grade_that_is_a_word_is_refused_with_its_row(folder, source):
    table = [{"prompt_id": "p", "prompt": "p", "image_path": "0.png", "rank": rank} for rank in ("1", "best")]
    parquet.write_table(pyarrow.Table.from_pylist(table), folder / "metadata-train.parquet")
    with pytest.raises(UserError, match=r"^row 2 of .*metadata-train.parquet has no number in column rank: .*'best'"):
        _ = source("imagerewarddb", path=str(folder)).prompts


@pytest.mark.parametrize("value", FLOATS)
def test_a_row_of_pickapic_without_a_finite_label_is_dropped_and_counted(tmp_path, source, encoded, value):
    rows = [
        {"caption": text, "jpg_0": encoded(50), "jpg_1": encoded(90), "label_0": label}
        for text, label in (("a cat", value), (GOOD[0], 1.0))
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "train-00000.parquet")
    data = source("pickapic", path=str(tmp_path))
    assert [sample.prompt for sample in data.view("pairs")] == [GOOD[0]]
    assert data.num_filtered == {"no label": 1}


# ---- single images


@pytest.mark.parametrize("value", [cell for cell in CELLS if cell != "1e999"])
def test_a_row_of_kto_csv_without_a_label_is_dropped_and_counted(folder, source, value):
    (folder / "list.csv").write_text(f"file_path,caption,label\n0.png,a cat,{value}\n1.png,a dog,1\n")
    data = source("kto_csv", path=str(folder))
    assert [(sample.prompt, sample.desirable) for sample in data.view("labels")] == [("a dog", True)]
    assert data.num_filtered == {"no label": 1}


@pytest.mark.parametrize("value", JSON_VALUES[:-1])
def test_a_label_in_a_jsonl_list_that_is_no_finite_number_is_dropped_and_counted(folder, source, value):
    good = '{"file_path": "1.png", "caption": "a dog", "label": 0}'
    (folder / "list.jsonl").write_text(f'{{"file_path": "0.png", "caption": "a cat", "label": {value}}}\n{good}\n')
    data = source("kto_csv", path=str(folder / "list.jsonl"))
    assert [(sample.prompt, sample.desirable) for sample in data.view("labels")] == [("a dog", False)]
    assert data.num_filtered == {"no label": 1}


# ---- shards


def write_shard(path, fields):
    with tarfile.open(path, "w") as tar:
        for name, content in fields.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("value", CELLS)
@pytest.mark.parametrize("as_json", [False, True])
def test_a_pair_of_a_shard_without_a_finite_label_is_dropped_and_counted(tmp_path, source, encoded, value, as_json):
    fields = {}
    for stem, text, label in (("0", "a cat", value), ("1", GOOD[0], "1")):
        fields |= {f"{stem}.jpg_0.jpg": encoded(50), f"{stem}.jpg_1.jpg": encoded(90), f"{stem}.txt": text.encode()}
        described = {f"{stem}.json": json.dumps({"label_0": label}).encode()}
        fields |= described if as_json else {f"{stem}.label_0.txt": label.encode()}
    write_shard(tmp_path / "0.tar", fields)
    data = source("webdataset", path=str(tmp_path))
    assert [sample.prompt for sample in data.view("pairs")] == [GOOD[0]]
    assert data.num_filtered == {"no label": 1}


@pytest.mark.parametrize("value", CELLS)
def test_an_image_of_a_shard_without_a_finite_label_is_dropped_and_counted(tmp_path, source, encoded, value):
    images = {f"{stem}.jpg": encoded(50) for stem in "01"}
    texts = {"0.txt": b"a cat", "1.txt": b"a dog", "0.cls": value.encode(), "1.cls": b"1"}
    write_shard(tmp_path / "0.tar", dict(sorted((images | texts).items())))
    data = source("webdataset_labels", path=str(tmp_path))
    assert [(sample.prompt, sample.desirable) for sample in data.view("labels")] == [("a dog", True)]
    assert data.num_filtered == {"no label": 1}


# ---- scores of this program


@pytest.mark.parametrize("which", ["best_worst", "all"])
@pytest.mark.parametrize("value", FLOATS[:-1])
@pytest.mark.parametrize("temperature", [None, 0.5])
def test_an_image_of_a_run_with_no_finite_score_neither_wins_nor_loses(folder, source, which, value, temperature):
    images = folder / "run" / "images" / "mine" / "0123456789"
    images.mkdir(parents=True)
    names = [f"{number}.png" for number in range(3)]
    for name in names:
        (folder / name).rename(images / name)
    write_prompts(images, [PromptRecord("p", GOOD[0], (), tuple(names))])
    write_sampling(images, SamplingRecord("mine", 4, None, "per_prompt", 0, 3, 1, False))
    RunFolder(folder / "run").open(Manifest("base-flux_mini-0", "base", "flux_mini", None, "0", "0"))
    digests = [hashlib.sha256((images / name).read_bytes()).hexdigest()[:32] for name in names]
    scores = Scores(
        ScoreInfo("shapes_preference", "1"),
        np.array(["p"] * 3),
        np.array([0, 1, 2]),
        np.array([0.9, 0.1, value], dtype=np.float32),
        np.array(digests),
    )
    file = RunFolder(folder / "run").score_file("mine", "0123456789", "shapes_preference", "1")
    file.parent.mkdir(parents=True)
    scores.write(file)
    data = source("runs", path=str(folder / "run"), evaluator="shapes_preference", which=which, temperature=temperature)
    assert won(data) == [GOOD]
    assert data.num_filtered == {"no score": 1}


# ---- what the sources stand on


@pytest.mark.parametrize("value", [*CELLS, *FLOATS, 10**400])
def test_what_is_no_finite_number_is_nan(value):
    assert np.isnan(number_or_nan(value))


@pytest.mark.parametrize(("value", "number"), [("0.5", 0.5), (1, 1.0), (True, 1.0), (-2.5, -2.5)])
def test_finite_numbers_stay(value, number):
    assert number_or_nan(value) == number


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, 1.1])
def test_no_pair_is_decided_by_a_number_that_is_no_probability(value):
    with pytest.raises(ValueError, match=r"must lie in 0\.\.1"):
        decide("p", "a", "b", value)


def test_a_number_that_is_finite_but_out_of_range_is_still_refused(folder, source):
    (folder / "pairs.jsonl").write_text('{"prompt": "p", "image_w": "0.png", "image_l": "1.png", "probability_w": 0.2}')
    with pytest.raises(UserError, match=r"probability_w=0.2 must lie in 0.5..1"):
        _ = source("local", path=str(folder)).prompts
