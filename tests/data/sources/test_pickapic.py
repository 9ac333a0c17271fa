"""Pick-a-Pic as published: parquet files with JPEG bytes in their cells, and the same as `datasets` keeps them."""

from fnmatch import fnmatch

import numpy as np
import pyarrow
import pytest
from datasets import Dataset, DatasetDict
from pyarrow import parquet

from alignbench.batch import LabelledBatch, PairBatch
from alignbench.data.batches.sampler import StepSampler
from alignbench.data.batches.stream import Stream, check_mix
from alignbench.data.source import images_of
from alignbench.data.storage import parquet_images as columns
from alignbench.errors import UserError
from alignbench.method import Method
from alignbench.models.tiny_random import tiny_adapter


def rows(encoded, *judged):
    """Rows of (caption, first image, second image, label_0); images are named by a grey level, None is missing."""
    return [
        {
            "caption": caption,
            "jpg_0": None if first is None else encoded(first),
            "jpg_1": None if second is None else encoded(second),
            "label_0": label,
            "label_1": 1 - label,
            "has_label": True,
            "image_0_uid": f"uid-{first}",
            "image_1_uid": f"uid-{second}",
            "user_id": 1,
        }
        for caption, first, second, label in judged
    ]


def write(folder, table, name="train-00000-of-00001", row_group_size=2):
    (folder / "data").mkdir(exist_ok=True)
    parquet.write_table(
        pyarrow.Table.from_pylist(table), folder / "data" / f"{name}.parquet", row_group_size=row_group_size
    )


def greys(sample):
    return sample.prompt, int(sample.image_w.pixels[0, 0, 0]), int(sample.image_l.pixels[0, 0, 0])


JUDGED = [("a", 10, 20, 1.0), ("a", 30, 10, 0.0), ("b", 40, 50, 0.5), ("b", 40, 50, 1.0), ("b", 40, 50, 1.0)]
PAIRS = [("a", 10, 20), ("a", 10, 30), ("b", 40, 50)]


def test_winners_come_first_ties_and_repeats_are_dropped_and_images_with_one_uid_are_one(tmp_path, source, encoded):
    write(tmp_path, rows(encoded, *JUDGED[:3]), "train-00000-of-00002")
    write(tmp_path, rows(encoded, *JUDGED[3:]), "train-00001-of-00002")
    write(tmp_path, rows(encoded, ("test", 1, 2, 1.0)), "test-00000-of-00001")
    data = source("pickapic", path=str(tmp_path))
    assert [greys(sample) for sample in data.view("pairs")] == PAIRS
    assert data.num_filtered == {"tie": 1, "duplicate": 1}
    assert data.prompts == ["a", "b"]
    samples = data.view("pairs")
    assert samples[0].image_w.key == samples[1].image_w.key == "data/train-00000-of-00002.parquet/0/jpg_0"
    assert [(s.image.key[-7:], s.desirable) for s in data.view("labels")] == [
        ("0/jpg_0", True), ("0/jpg_1", False), ("1/jpg_0", False), ("2/jpg_0", True), ("2/jpg_1", False),
    ]  # fmt: skip
    assert [pair.key_l for pair in data.pairs] == [sample.image_l.key for sample in samples]
    assert np.array_equal(data.image(samples[2].image_l.key).pixels, samples[2].image_l.pixels)


@pytest.mark.parametrize("kind", ["parquet", "folder of datasets", "split of datasets"])
def test_the_same_rows_are_read_from_parquet_and_from_what_datasets_saves(tmp_path, source, encoded, kind):
    table = rows(encoded, *JUDGED)
    if kind == "parquet":
        write(tmp_path, table)
    elif kind == "folder of datasets":
        DatasetDict({"train": Dataset.from_list(table), "test": Dataset.from_list(table[:1])}).save_to_disk(tmp_path)
    else:
        Dataset.from_list(table).save_to_disk(tmp_path)
    part = None if kind == "split of datasets" else "train"
    assert [greys(sample) for sample in source("pickapic", path=str(tmp_path), part=part).view("pairs")] == PAIRS


def test_rows_without_label_prompt_or_image_are_dropped_and_counted(tmp_path, source, encoded):
    table = rows(encoded, ("a", 10, 20, 1.0), ("a", 11, 12, 1.0), (" ", 13, 14, 1.0), (None, 15, 16, 1.0),
                 ("b", None, 20, 1.0), ("c", 21, 22, 0.0), ("d", 23, 23, 1.0))  # fmt: skip
    table[1]["has_label"] = False
    table[5]["jpg_0"] = table[5]["jpg_0"][:-20]
    write(tmp_path, table)
    data = source("pickapic", path=str(tmp_path), check_images=True)
    assert len(data.view("pairs")) == 1
    assert data.num_filtered == {
        "no label": 1, "empty prompt": 2, "missing image": 1, "unreadable image": 1, "twice the same image": 1,
    }  # fmt: skip


def test_an_image_that_was_not_looked_at_stops_with_its_name_which_can_be_excluded(tmp_path, source, encoded):
    table = rows(encoded, ("a", 10, 20, 1.0), ("b", None, 20, 1.0))
    write(tmp_path, table)
    samples = source("pickapic", path=str(tmp_path)).view("pairs")
    assert len(samples) == 2
    with pytest.raises(UserError, match=r"train-00000-of-00001.parquet/1/jpg_0 is missing; .* data.exclude") as told:
        _ = samples[1].image_w.pixels
    name = str(told.value).split("training image ")[1].split(" is ")[0]
    (tmp_path / "excluded.txt").write_text(f"{name}\n")
    data = source("pickapic", path=str(tmp_path), exclude=str(tmp_path / "excluded.txt"))
    assert [greys(sample) for sample in data.view("pairs")] == [("a", 10, 20)]
    assert data.num_filtered == {"excluded": 1}


def test_reading_in_order_reads_each_row_group_once_and_light_columns_read_no_image(
    tmp_path, source, encoded, monkeypatch
):
    write(tmp_path, rows(encoded, *((str(i), 2 * i, 2 * i + 1, 1.0) for i in range(40))), row_group_size=10)
    reading = counted(monkeypatch)
    data = source("pickapic", path=str(tmp_path))
    assert len(data.prompts) == len(data.view("pairs")) == 40
    assert not reading
    for sample in data.view("pairs"):
        greys(sample)
    assert len(set(reading)) == len(reading) == 2 * 4  # columns times row groups


def counted(monkeypatch):
    """The columns of row groups that are read from now on; none is kept from before."""
    read, reading = columns._read_column, []
    monkeypatch.setattr(columns, "_read_column", lambda *place: reading.append(place) or read(*place))
    monkeypatch.setattr(columns, "_kept", columns._Kept())
    return reading


@pytest.mark.parametrize("kind", ["pairs", "images", "labels"])
@pytest.mark.parametrize("room", [1, 2, 3])
def test_an_epoch_in_random_order_reads_each_row_group_once_within_the_room_it_is_given(
    tmp_path, source, encoded, monkeypatch, room, kind
):
    table = rows(encoded, *((str(i), 2 * i, 2 * i + 1, float(i % 2)) for i in range(60)))
    write(tmp_path, table[:30], "train-00000-of-00002", row_group_size=10)
    write(tmp_path, table[30:], "train-00001-of-00002", row_group_size=10)
    file = tmp_path / "data" / "train-00000-of-00002.parquet"
    size = max(columns._group_bytes(file) + columns._group_bytes(file.with_name("train-00001-of-00002.parquet")))
    reading = counted(monkeypatch)
    data = source("pickapic", path=str(tmp_path))
    data.window_bytes = room * size
    view = data.view(kind)
    assert (view.blocks.window, len(view.blocks.block)) == (room, len(view))
    order = [position for _, position in StepSampler(len(view), len(view), 1, 0, 0, 1, blocks=view.blocks).samples(0)]
    assert sorted(order) == list(range(len(view)))
    most = 0
    for position in order:
        for picture in images_of(view[position]):
            assert picture.pixels.shape == (8, 8, 3)
        kept = columns._kept.groups
        most = max(most, len(kept))
        assert sum(cells.nbytes for group in kept.values() for cells in group.values()) <= room * size * 1.1
    assert len(set(reading)) == len(reading) == 2 * 6
    assert most == room


def test_training_takes_that_order(tmp_path, source, encoded, monkeypatch):
    write(tmp_path, rows(encoded, *((str(i), 2 * i, 2 * i + 1, 1.0) for i in range(48))), row_group_size=8)
    reading = counted(monkeypatch)
    data = source("pickapic", path=str(tmp_path))
    data.window_bytes = 1  # one row group
    place = {"total_batch_size": 4, "seed": 0, "rank": 0, "num_processes": 1, "start_step": 0, "num_workers": 0}
    stream = Stream(OnPairs(), data, tiny_adapter("stable_diffusion"), tmp_path / "cache", **place)
    batches = [batch for _ in range(12) for batch in stream.next()]
    prompts = [prompt for batch in batches for prompt in batch.prompts]
    assert sorted(map(int, prompts)) == list(range(48))
    stream.close()
    assert len(reading) in (2 * 6, 2 * 7)  # the last where the next epoch was begun ahead


class OnPairs(Method):
    """What data ask of a method."""

    batch_type = PairBatch

    def loss(self, model, batch, context):
        raise NotImplementedError


class OnLabels(OnPairs):
    batch_type = LabelledBatch
    desirable_share = 0.8


def test_two_labels_need_room_for_two_row_groups_and_that_is_said_without_a_model(tmp_path, source, encoded):
    write(tmp_path, rows(encoded, *((str(i), 2 * i, 2 * i + 1, 1.0) for i in range(16))), row_group_size=8)
    data = source("pickapic", path=str(tmp_path))
    check_mix(OnLabels(), data)
    data = source("pickapic", path=str(tmp_path))
    data.window_bytes = 1  # one row group
    check_mix(OnPairs(), data)
    with pytest.raises(UserError, match=r"two row groups .* double it, or set data.window_mib=null"):
        check_mix(OnLabels(), data)


def test_where_any_order_costs_the_same_all_rows_are_shuffled(tmp_path, source, encoded):
    table = rows(encoded, *JUDGED)
    Dataset.from_list(table).save_to_disk(tmp_path / "arrow")
    write(tmp_path, table)
    assert source("pickapic", path=str(tmp_path / "arrow"), part=None).view("pairs").blocks is None
    assert source("pickapic", path=str(tmp_path / "data"), window_mib=None).view("pairs").blocks is None
    view = source("pickapic", path=str(tmp_path / "data")).view("pairs")
    assert view.blocks.block.tolist() == [0, 0, 1]  # of the image that was not seen before
    assert view.blocks.window > 100
    with pytest.raises(Exception, match=r"data.window_mib=0 must be at least 1, or null"):
        source("pickapic", path=str(tmp_path), window_mib=0)


def test_the_fingerprint_follows_images_captions_and_labels_and_nothing_else(tmp_path, source, encoded):
    seen = set()
    for number, judged in enumerate(
        [
            JUDGED,
            [("A", *JUDGED[0][1:]), *JUDGED[1:]],
            [("a", 10, 20, 0.0), *JUDGED[1:]],
            [("a", 10, 21, 1.0), *JUDGED[1:]],
        ]
    ):
        prints = set()
        for copy in "ab":
            folder = tmp_path / f"{number}{copy}"
            folder.mkdir()
            write(folder, rows(encoded, *judged))
            prints.add(source("pickapic", path=str(folder)).fingerprint)
        assert len(prints) == 1
        seen |= prints
    assert len(seen) == 4


def test_other_tables_and_paths_are_refused_in_a_sentence(tmp_path, source, encoded):
    with pytest.raises(Exception, match="does not exist, and is not a hub id"):
        source("pickapic", path=str(tmp_path / "nothing"))
    with pytest.raises(UserError, match=r"no .parquet or .arrow file"):
        _ = source("pickapic", path=str(tmp_path)).prompts
    write(tmp_path, [{"caption": "a", "image": b""}])
    with pytest.raises(UserError, match="lacks the columns jpg_0, jpg_1, label_0; its columns are caption, image"):
        _ = source("pickapic", path=str(tmp_path)).prompts
    with pytest.raises(UserError, match=r"no table of data.part=test: it has 1 other tables, such as data/train-00000"):
        _ = source("pickapic", path=str(tmp_path), part="test").prompts
    (tmp_path / "data" / "train-00000-of-00001.parquet").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(UserError, match=r"is damaged or no Parquet file"):
        _ = source("pickapic", path=str(tmp_path)).prompts


def test_a_part_is_found_by_its_whole_name(tmp_path):
    for name in ("train-00000-of-00002", "test-00000-of-00001", "test_unique-00000-of-00001"):
        (tmp_path / f"{name}.parquet").touch()
    assert [file.stem for file in columns.find_tables(tmp_path, "test")] == ["test-00000-of-00001"]
    assert len(columns.find_tables(tmp_path, None)) == 3


def test_a_hub_id_is_fetched_into_the_hubs_cache_and_its_absence_told(tmp_path, source, encoded, monkeypatch):
    write(tmp_path, rows(encoded, *JUDGED))
    asked = []

    def snapshot_download(hub_id, **settings):
        asked.append((hub_id, settings))
        return str(tmp_path)

    with pytest.raises(
        UserError, match=r"data.path=owner/name is not a folder, and could not be downloaded from the hub: "
    ):
        _ = source("pickapic", path="owner/name").prompts  # tests are offline
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    data = source("pickapic", path="owner/name", revision="1234")
    assert not asked
    assert [greys(sample) for sample in data.view("pairs")] == PAIRS
    (hub_id, settings), *again = asked
    assert (hub_id, settings["repo_type"], settings["revision"], again) == ("owner/name", "dataset", "1234", [])
    published = ["data/train-00000-of-00645-b66ac786bf6fb553.parquet", "train/0000.parquet", "data/train.parquet"]
    for name in published:
        assert any(fnmatch(name, pattern) for pattern in settings["allow_patterns"])
    for name in ("data/test-00000-of-00014.parquet", "data/validation_unique-00000-of-00001.parquet", "README.md"):
        assert not any(fnmatch(name, pattern) for pattern in settings["allow_patterns"])
