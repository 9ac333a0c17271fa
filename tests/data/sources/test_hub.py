"""Data sets in the layout of the hub, streamed by `datasets` from a folder: as Parquet files and as image folders."""

import json
import shutil

import pytest
from datasets import Dataset, Features, Image, List, Value
from datasets.utils import disable_progress_bars
from hydra.errors import InstantiationException

from alignbench.data.hub import stored_copy, stream
from alignbench.errors import UserError

CONFIGS = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
  - split: test
    path: data/test-*
---
A data set.
"""
PAIRS = [("a", 10, 20), ("b", 30, 40), ("c", 50, 60), ("d", 70, 80), ("e", 90, 100)]


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
    """No bars of `datasets`, and a cache that no other test has filled."""
    disable_progress_bars()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def repository(tmp_path, encoded):
    """Return a function that writes rows as `push_to_hub` lays them out: Parquet shards with features, and a card."""

    def cell(value):
        return {"bytes": encoded(value), "path": None} if isinstance(value, int) else value

    def write(rows, features, splits=("train", "test"), num_shards=2, name="repository"):
        folder = tmp_path / name
        (folder / "data").mkdir(parents=True)
        (folder / "README.md").write_text(CONFIGS)
        images = {name for name, feature in features.items() if isinstance(feature, Image)}
        for split in splits:
            table = [{key: cell(value) if key in images else value for key, value in row.items()} for row in rows]
            data = Dataset.from_list(table, features=Features(features))
            for index in range(num_shards):
                file = folder / "data" / f"{split}-{index:05d}-of-{num_shards:05d}.parquet"
                data.shard(num_shards, index, contiguous=True).to_parquet(file)
        return folder

    return write


def pairs(repository, rows=PAIRS, **more):
    columns = {"prompt": Value("string"), "chosen": Image(), "rejected": Image()}
    return repository([dict(zip(columns, row, strict=True)) for row in rows], columns, **more)


def greys(source):
    return [(s.prompt, int(s.image_w.pixels[0, 0, 0]), int(s.image_l.pixels[0, 0, 0])) for s in source.view("pairs")]


def test_winners_and_losers_of_a_parquet_repository_keep_their_bytes(repository, source, encoded):
    data = source("hub", path=str(pairs(repository)))
    assert greys(data) == PAIRS
    assert data.prompts == ["a", "b", "c", "d", "e"]
    store = data.contents.store
    with store.image(0).open() as file:
        assert file.read() == encoded(10)
    assert [sample.desirable for sample in data.view("labels")] == [True, False] * 5


def test_a_copy_equals_the_same_pairs_as_local_data(repository, source, tmp_path, encoded):
    local = tmp_path / "local"
    local.mkdir()
    with (local / "pairs.jsonl").open("w") as file:
        for prompt, winner, loser in PAIRS:
            for grey in (winner, loser):
                (local / f"{grey}.jpg").write_bytes(encoded(grey))
            row = {"prompt": prompt, "image_w": f"{winner}.jpg", "image_l": f"{loser}.jpg"}
            file.write(json.dumps(row) + "\n")
    here, there = source("local", path=str(local)), source("hub", path=str(pairs(repository)))
    assert greys(here) == greys(there)
    addresses = [[data.address(sample.image_w.key) for sample in data.view("pairs")] for data in (here, there)]
    assert addresses[0] == addresses[1]  # so both share the encoded images of a cache


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"label_0": 1.0, "label_1": 0.0, "has_label": True}, ("a", 10, 20, 1.0)),
        ({"label_0": 0.0, "label_1": 1.0, "has_label": True}, ("a", 20, 10, 1.0)),
        ({"label_0": 0.5, "label_1": 0.5, "has_label": True}, "tie"),
        ({"label_0": 1.0, "label_1": 0.0, "has_label": False}, "no label"),
        ({"label_0": 1.0, "label_1": 3.0}, ("a", 20, 10, 0.75)),  # votes
        ({"label_0": 0.0, "label_1": 0.0}, "no label"),  # nobody voted
        ({"label_0": None}, "no label"),
        ({"label_0": 0.25}, ("a", 20, 10, 0.75)),
    ],
)
def test_preferences_are_read_as_those_of_pick_a_pic(repository, source, encoded, labels, expected):
    """Whose images are plain bytes. A second row has what the first may lack: something to train on."""
    columns = {"caption": Value("string"), "jpg_0": Value("binary"), "jpg_1": Value("binary")}
    columns |= {key: Value("bool" if key == "has_label" else "float64") for key in labels}
    other = {key: 0.0 if key == "label_1" else 1 for key in labels}
    rows = [
        {"caption": "a", "jpg_0": encoded(10), "jpg_1": encoded(20), **labels},
        {"caption": "b", "jpg_0": encoded(30), "jpg_1": encoded(40), **other},
    ]
    data = source("hub", path=str(repository(rows, columns, num_shards=1)))
    samples = [(*grey, pair.probability_w) for grey, pair in zip(greys(data), data.view("pairs"), strict=True)]
    assert samples == [*([] if isinstance(expected, str) else [expected]), ("b", 30, 40, 1.0)]
    assert data.num_filtered == ({expected: 1} if isinstance(expected, str) else {})


def test_columns_of_other_names_are_typed(repository, source):
    columns = {
        "text": Value("string"),
        "left": Image(),
        "right": Image(),
        "votes": Value("int64"),
        "no": Value("int64"),
    }
    folder = repository([{"text": "a", "left": 10, "right": 20, "votes": 1, "no": 4}], columns, num_shards=1)
    typed = {"image_0": "left", "image_1": "right", "label_0": "votes", "label_1": "no"}
    (pair,) = source("hub", path=str(folder), columns=typed).view("pairs")
    assert pair.probability_w == pytest.approx(0.8)
    with pytest.raises(UserError) as told:
        _ = source("hub", path=str(folder)).prompts
    assert "which are text, left, right, votes, no; name them: data.columns.prompt=text" in str(told.value)
    assert f"or read its prompts by data=hub_prompts data.path={folder}" in str(told.value)
    with pytest.raises(UserError, match=r"data.columns.image_0=lft is no column of .*did you mean left\?"):
        _ = source("hub", path=str(folder), columns={"image_0": "lft"}).prompts


def test_a_list_of_graded_images_makes_all_its_pairs(repository, source, encoded):
    columns = {"prompt": Value("string"), "images": List(Image()), "scores": List(Value("float64"))}
    images = [{"bytes": encoded(grey), "path": None} for grey in (10, 20, 30)]
    folder = repository([{"prompt": "a", "images": images, "scores": [0.1, 0.9, 0.5]}], columns, num_shards=1)
    assert sorted(greys(source("hub", path=str(folder)))) == [("a", 20, 10), ("a", 20, 30), ("a", 30, 10)]


@pytest.fixture
def image_folder(tmp_path, encoded):
    """Return a function that writes an image folder with metadata.jsonl."""

    def write(*rows):
        folder = tmp_path / "images" / "train"
        folder.mkdir(parents=True)
        for grey in (10, 20, 30):
            (folder / f"{grey}.png").write_bytes(encoded(grey, kind="PNG"))
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return folder.parent

    return write


def test_an_image_folder_has_captions(image_folder, source, encoded):
    folder = image_folder({"file_name": "10.png", "text": "ten"}, {"file_name": "20.png", "text": "twenty"})
    data = source("hub_captions", path=str(folder))
    assert [(sample.prompt, int(sample.image.pixels[0, 0, 0])) for sample in data.view("images")] == [
        ("ten", 10), ("twenty", 20),
    ]  # fmt: skip
    with data.contents.store.image(1).open() as file:
        assert file.read() == encoded(20, kind="PNG")


def test_an_image_folder_of_pairs_is_one_too(image_folder, source):
    row = {"chosen_file_name": "30.png", "rejected_file_name": "10.png", "prompt": "a"}
    assert greys(source("hub", path=str(image_folder(row)))) == [("a", 30, 10)]


def test_labels_and_prompts_are_read(repository, source):
    columns = {"prompt": Value("string"), "image": Image(), "label": Value("bool")}
    rows = [("a", 10, True), ("b", 20, False), ("b", 30, None), ("", 40, True)]
    folder = str(repository([dict(zip(columns, row, strict=True)) for row in rows], columns))
    data = source("hub_labels", path=folder)
    assert [(sample.prompt, sample.desirable) for sample in data.view("labels")] == [("a", True), ("b", False)]
    assert data.num_filtered == {"empty prompt": 1, "no label": 1}
    prompts = source("hub_prompts", path=folder)
    assert [sample.prompt for sample in prompts.view("prompts")] == ["a", "b"]
    assert prompts.num_filtered == {"empty prompt": 1, "repeated prompt": 1}


def test_files_of_json_have_prompts(tmp_path, source):
    folder = tmp_path / "prompts"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"prompt": "a", "n": 1}\n{"prompt": "b", "n": 2}\n')
    assert source("hub_prompts", path=str(folder)).prompts == ["a", "b"]


def test_the_first_rows_are_taken_after_shuffling_with_a_seed(repository, source):
    folder = str(pairs(repository))
    assert greys(source("hub", path=folder, num_samples=2)) == PAIRS[:2]
    shuffled = [greys(source("hub", path=folder, num_samples=3, shuffle_buffer=4, shuffle_seed=n)) for n in range(6)]
    assert all(set(some) < set(PAIRS) and len(some) == 3 for some in shuffled)
    assert len({tuple(some) for some in shuffled}) > 1
    assert greys(source("hub", path=folder, part="test", num_samples=9)) == PAIRS


@pytest.mark.parametrize("shuffle_buffer", [None, 2])
@pytest.mark.parametrize("killed_at", [1, 3, 4])
def test_a_killed_copy_is_continued(repository, source, monkeypatch, killed_at, shuffle_buffer):
    monkeypatch.setattr(stored_copy, "CHUNK", 2)
    folder = str(pairs(repository))
    whole = greys(source("hub", path=folder, shuffle_buffer=shuffle_buffer, shuffle_seed=3))
    shutil.rmtree(stored_copy.cache_folder())
    store, seen = stored_copy.stored_row, []

    def killed(layout, values):
        seen.append(values["prompt"])
        if len(seen) == killed_at:
            raise KeyboardInterrupt
        return store(layout, values)

    monkeypatch.setattr(stored_copy, "stored_row", killed)
    with pytest.raises(KeyboardInterrupt):
        source("hub", path=folder, shuffle_buffer=shuffle_buffer, shuffle_seed=3).view("pairs")
    kept = (killed_at - 1) // 2 * 2
    data = source("hub", path=folder, shuffle_buffer=shuffle_buffer, shuffle_seed=3)
    assert greys(data) == whole
    assert seen[killed_at:] == [prompt for prompt, *_ in whole[kept:]]  # the rows of whole chunks are not stored twice
    (origin,) = stored_copy.cache_folder().glob("hub/*/*/origin.json")
    assert json.loads(origin.read_text())["rows"] == 5
    assert not list(origin.parent.parent.glob("*.partial"))


def test_a_copy_is_read_again_until_the_folder_changes(repository, source, monkeypatch, encoded):
    folder = pairs(repository)
    before = source("hub", path=str(folder))
    assert greys(before) == PAIRS
    opened = []
    original = stream.Split.open
    monkeypatch.setattr(stream.Split, "open", lambda split: opened.append(split) or original(split))
    again = source("hub", path=str(folder))
    assert again.fingerprint == before.fingerprint
    assert not opened
    shutil.rmtree(folder)
    pairs(repository, rows=PAIRS[:3])
    assert greys(source("hub", path=str(folder))) == PAIRS[:3]
    assert len(opened) == 1


def test_images_elsewhere_and_empty_cells_are_missing(repository, source, tmp_path, encoded):
    """A table may name any file; only those of the data set are read."""
    secret = tmp_path / "secret.png"
    secret.write_bytes(encoded(99, kind="PNG"))
    elsewhere = {"bytes": None, "path": str(secret)}
    upwards = {"bytes": None, "path": str(tmp_path / "repository" / ".." / "secret.png")}
    rows = [("a", 10, elsewhere), ("b", upwards, 20), ("c", None, 30), ("d", 40, 50)]
    data = source("hub", path=str(pairs(repository, rows, num_shards=1)))
    assert greys(data) == [("d", 40, 50)]
    assert data.num_filtered == {"missing image": 3}
    assert data.first_filtered["missing image"].endswith("row 1, image_l")
    assert b"secret" not in b"".join(f.read_bytes() for f in stored_copy.cache_folder().rglob("*.jsonl"))


def test_no_program_of_a_data_set_is_run(tmp_path, source):
    folder = tmp_path / "scripted"
    folder.mkdir()
    (folder / "scripted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(UserError, match="can only be read by a program that comes with it, and none is run here"):
        _ = source("hub", path=str(folder)).prompts
    assert not (tmp_path / "ran").exists()


def test_what_does_not_exist_is_answered_with_the_choices(repository, source, tmp_path):
    folder = pairs(repository)
    (tmp_path / "empty").mkdir()
    several = shutil.copytree(folder, tmp_path / "several")
    one = CONFIGS.split("configs:\n")[1].split("---")[0]
    both = one.replace("default", "first") + one.replace("default", "second")
    (several / "README.md").write_text(CONFIGS.replace(one, both))
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "data" / "train-00001-of-00002.parquet").write_bytes(b"PAR1")
    for complaint, values in (
        (r"data.part=tset is no split of .*did you mean test\? available: train, test", {"part": "tset"}),
        (r"data.config_name=x is no configuration of .* available: default", {"config_name": "x"}),
        (r"has several configurations; add data.config_name= and one of \['first', 'second'\]", {"path": str(several)}),
        (r"data.config_name=frst .*did you mean first\? available: first, second",
         {"path": str(several), "config_name": "frst"}),
        (r"data.path=.*empty cannot be read: .*doesn't contain any data files", {"path": str(tmp_path / "empty")}),
        (r"row 4 of .*broken cannot be read: .*the same command continues behind", {"path": str(broken)}),
        (r"column prompt of .* holds no images but values of type string",
         {"columns": {"image_w": "prompt"}}),
        (r"row 1 of .* is not a pair: ", {"columns": {"probability_w": "prompt"}}),
        (r"data.path=nowhere is neither a folder nor a hub id such as owner/name", {"path": "nowhere"}),
        (r"data.num_samples=0 must be", {"num_samples": 0}),
    ):  # fmt: skip
        with pytest.raises((UserError, InstantiationException), match=complaint) as told:
            _ = source("hub", **{"path": str(folder)} | values).view("pairs")
        assert "\n" not in str(told.value.__cause__ or told.value)


def test_a_data_set_of_the_hub_is_read_without_a_connection_once_it_was_copied(repository, source, monkeypatch):
    with pytest.raises(UserError, match=r"data.path=owner/name is neither here .* run `hf download owner/name --repo-"):
        _ = source("hub", path="owner/name").prompts
    folder, commits, opened = pairs(repository), ["a" * 40, "b" * 40], []

    def open_here(split):
        opened.append(split.commit)
        return original(stream.Split(str(folder), split.config_name, split.part, None))

    original = stream.Split.open
    monkeypatch.setattr(stream.Split, "open", open_here)
    monkeypatch.setattr(stored_copy, "find_commit", lambda path, revision: commits[0])
    assert greys(source("hub", path="owner/name")) == PAIRS
    assert greys(source("hub", path="owner/name")) == PAIRS
    assert opened == ["a" * 40]
    monkeypatch.setattr(stored_copy, "find_commit", lambda path, revision: commits[1])  # somebody changed it
    assert greys(source("hub", path="owner/name")) == PAIRS
    assert opened == commits
    monkeypatch.setattr(stored_copy, "find_commit", stream.find_commit)
    assert greys(source("hub", path="owner/name")) == PAIRS
    assert opened == commits


def test_a_commit_is_not_looked_up():
    assert stream.find_commit("owner/name", "0123456789" * 4) == "0123456789" * 4
    with pytest.raises(UserError, match="at revision main is neither here nor whole in the local hub cache"):
        stream.find_commit("owner/name", "main")


def test_a_file_of_another_repository_does_not_belong_to_this_one():
    split = stream.Split("owner/name", None, "train", "a" * 40)
    assert split.holds("hf://datasets/owner/name@aaaa/1.png")
    assert split.holds("zip://1.png::hf://datasets/owner/name@aaaa/images.zip")
    assert not split.holds("hf://datasets/owner/name2@aaaa/1.png")
    assert not split.holds("https://example.org/1.png")
    assert not split.holds("/etc/hosts")
