"""Published lists of judged images: HPDv2, ImageRewardDB, Diffusion-KTO, and folders of captions."""

import json

import pyarrow
import pytest
from pyarrow import parquet

from alignbench.errors import UserError


@pytest.fixture
def folder(tmp_path, encoded):
    """Images a.jpg to d.jpg below the folders train and images."""
    for name, grey in zip("abcd", (10, 60, 110, 160), strict=True):
        for place in ("train", "images"):
            (tmp_path / place).mkdir(exist_ok=True)
            (tmp_path / place / f"{name}.jpg").write_bytes(encoded(grey))
    return tmp_path


def keys(data):
    return [(sample.prompt, sample.image_w.key[-5], sample.image_l.key[-5]) for sample in data.view("pairs")]


# ---- HPDv2


def chosen(prompt, images, grades, column="image_path", **more):
    return {"prompt": prompt, column: [f"{image}.jpg" for image in images], "human_preference": grades, **more}


def test_choices_of_hpdv2_become_pairs_under_either_name_of_the_images(folder, source):
    entries = [
        chosen("p", "ab", [1, 0], user_hash="x"),
        chosen("p", "ca", [0, 1], "file_path"),
        chosen("q", "cd", [0, 0]),
        chosen("q", "cx", [0, 1]),
        chosen("p", "ba", [0, 1]),
    ]
    (folder / "train.json").write_text(json.dumps(entries, indent=1))
    data = source("hpdv2", path=str(folder))
    assert keys(data) == [("p", "a", "b"), ("p", "a", "c")]
    assert data.num_filtered == {"tie": 1, "missing image": 1, "duplicate": 1}


def test_ranks_of_hpdv2_make_every_two_images_a_pair(folder, source):
    (folder / "train").rename(folder / "test")
    entry = {"prompt": "p", "image_path": ["a.jpg", "b.jpg", "c.jpg"], "rank": [2, 1, 3], "raw_annotation": []}
    (folder / "test.json").write_text(json.dumps([entry]))
    assert keys(source("hpdv2", path=str(folder), part="test")) == [("p", "b", "a"), ("p", "a", "c"), ("p", "b", "c")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"prompt": "p"}', "train.json is not a JSON list"),
        ('[{"prompt": "p"}]', 'entry 1 of .*train.json has no list of texts in column "file_path"'),
        ('[{"prompt": "p", "image_path": ["a.jpg"], "human_preference": [1, 0]}]', "1 images and 2 grades"),
        ('[{"prompt": "p", "image_path": [], "human_preference": []}, 3]', "entry 2 of .* is not a JSON object"),
        ('[{"prompt": "p", "image_path": [], "human_preference": []} {}]', "neither a comma nor the end"),
        ('[{"prompt": "p", "image_path": [', "entry 1 of .* is not JSON"),
    ],
)
def test_annotations_that_cannot_be_read_are_told_by_their_entry(folder, source, text, message):
    (folder / "train.json").write_text(text)
    with pytest.raises(UserError, match=message):
        _ = source("hpdv2", path=str(folder)).prompts


# ---- ImageRewardDB


def metadata(folder, *rows):
    names = ("image_path", "prompt_id", "prompt", "rank", "overall_rating")
    table = pyarrow.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows])
    parquet.write_table(table, folder / "metadata-train.parquet")


RANKED = [
    ("images/a.jpg", "1", "p", 2, 7),
    ("images/b.jpg", "1", "p", 1, 5),
    ("images/c.jpg", "2", "q", 1, 4),
    ("images/c.jpg", "1", "p", 2, 6),
    ("images/d.jpg", "2", "q", None, 3),
]


def test_images_of_one_prompt_are_paired_by_rank_or_by_rating(folder, source):
    metadata(folder, *RANKED)
    data = source("imagerewarddb", path=str(folder))
    assert keys(data) == [("p", "b", "a"), ("p", "b", "c")]
    assert data.num_filtered == {"tie": 1, "no label": 1}
    rated = source("imagerewarddb", path=str(folder), grade="overall_rating")
    assert keys(rated) == [("p", "a", "b"), ("p", "a", "c"), ("p", "c", "b"), ("q", "c", "d")]


def test_a_grade_that_does_not_exist_is_refused(folder, source):
    metadata(folder, *RANKED)
    with pytest.raises(Exception, match=r"data.grade=ranks is unknown; did you mean rank\?"):
        source("imagerewarddb", path=str(folder), grade="ranks")
    with pytest.raises(UserError, match="lacks the columns fidelity_rating"):
        _ = source("imagerewarddb", path=str(folder), grade="fidelity_rating").prompts


# ---- Diffusion-KTO


def labelled(data):
    return [(sample.prompt, sample.image.key, sample.desirable) for sample in data.view("labels")]


LISTED = (
    "file_path,caption,label\n"
    "train/a.jpg,p,exclusive_win\n"
    'train/b.jpg,"q, r",exclusive_lose\n'
    "train/c.jpg,p,intersections\n"
    "train/d.jpg,,exclusive_win\n"
    "train/x.jpg,p,exclusive_win\n"
    "train/a.jpg,p,exclusive_win\n"
    "train/d.jpg,p,\n"
)
KEPT = [("p", "train/a.jpg", True), ("q, r", "train/b.jpg", False)]


@pytest.mark.parametrize(("mixed", "third"), [("desirable", [True]), ("undesirable", [False]), ("dropped", [])])
def test_labels_of_diffusion_kto_are_read_with_its_three_policies(folder, source, mixed, third):
    (folder / "list.csv").write_text(LISTED)
    data = source("kto_csv", path=str(folder), mixed=mixed)
    assert labelled(data) == KEPT + [("p", "train/c.jpg", wanted) for wanted in third]
    expected = {"empty prompt": 1, "missing image": 1, "duplicate": 1, "no label": 1}
    assert data.num_filtered == expected | ({"won and lost": 1} if mixed == "dropped" else {})
    wanted = [sample.image.key for sample in data.view("images")]
    assert wanted == [key for _, key, desirable in labelled(data) if desirable]


def test_the_columns_of_the_program_and_an_image_listed_with_both_labels_are_understood(folder, source):
    rows = ["file_name,caption,split", "train/a.jpg,p,0", "train/a.jpg,p,1", "train/a.jpg,q,0"]
    (folder / "list.csv").write_text("\n".join(rows))
    assert labelled(source("kto_csv", path=str(folder / "list.csv"), mixed="undesirable")) == [
        ("p", "train/a.jpg", False),
        ("q", "train/a.jpg", False),
    ]


def test_an_unknown_label_or_column_is_told_by_its_line(folder, source):
    (folder / "list.csv").write_text("file_path,caption,label\ntrain/a.jpg,p,exclusive_wim\n")
    with pytest.raises(UserError, match=r"line 2 of .* has the label 'exclusive_wim'; did you mean exclusive_win"):
        _ = source("kto_csv", path=str(folder)).prompts
    (folder / "list.csv").write_text("file,caption,label\ntrain/a.jpg,p,1\n")
    with pytest.raises(UserError, match="has no column file_path or file_name; it has file, caption, label"):
        _ = source("kto_csv", path=str(folder)).prompts


# ---- captions


def captioned(data):
    return [(sample.prompt, sample.image.key) for sample in data.view("images")]


def test_captions_lie_beside_images_or_in_a_list(folder, source):
    for name, caption in (("a", "one\n"), ("b", "two"), ("c", " \n")):
        (folder / "train" / f"{name}.txt").write_text(caption)
    data = source("captions", path=str(folder / "train"))
    assert captioned(data) == [("one", "a.jpg"), ("two", "b.jpg")]
    assert data.view("labels").desirable == [True, True]
    assert data.num_filtered == {"no caption": 1, "empty prompt": 1}
    (folder / "train" / "metadata.jsonl").write_text('{"file_name": "d.jpg", "text": "four"}\n' * 2)
    data = source("captions", path=str(folder / "train"))
    assert captioned(data) == [("four", "d.jpg")]
    assert data.num_filtered == {"duplicate": 1}
    with pytest.raises(UserError, match="has captioned images, not pairs"):
        data.view("pairs")
