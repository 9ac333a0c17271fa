"""Tar shards: found once, read by stretches, whatever their samples hold."""

import io
import json
import tarfile

import pytest

from alignbench.data.sources import webdataset
from alignbench.errors import UserError


def write(path, *samples):
    """Write a shard; a sample is a name and its fields."""
    with tarfile.open(path, "w") as tar:
        for name, fields in samples:
            for field, content in fields.items():
                member = tarfile.TarInfo(f"{name}.{field}")
                content = content.encode() if isinstance(content, str) else content
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def pair(encoded, first, second, prompt, label):
    fields = {"jpg_0.jpg": encoded(first), "jpg_1.jpg": encoded(second), "original_prompt.txt": prompt}
    return fields | {"label_0.txt": str(label), "label_1.txt": str(1 - label)}


def greys(sample):
    return sample.prompt, int(sample.image_w.pixels[0, 0, 0]), int(sample.image_l.pixels[0, 0, 0])


def test_pairs_of_pickapic_in_shards_are_read_by_stretches(tmp_path, source, encoded):
    write(tmp_path / "00000.tar", ("0", pair(encoded, 10, 20, "a", 1.0)), ("1", pair(encoded, 30, 40, "b", 0.5)))
    broken = pair(encoded, 90, 100, "e", 1.0)
    broken["jpg_1.jpg"] = broken["jpg_1.jpg"][:-30]
    lacking = pair(encoded, 90, 100, "f", 1.0)
    del lacking["jpg_1.jpg"]
    write(tmp_path / "00001.tar", ("0", pair(encoded, 50, 60, "c", 0.0)), ("1", broken), ("2", lacking))
    data = source("webdataset", path=str(tmp_path))
    assert [greys(sample) for sample in data.view("pairs")] == [("a", 10, 20), ("c", 60, 50)]
    assert data.num_filtered == {"tie": 1, "unreadable image": 1, "missing image": 1}
    last = data.view("pairs")[1]
    assert last.image_w.key.startswith("00001.tar@")
    assert data.image(last.image_w.key).pixels[0, 0, 0] == 60
    with pytest.raises(KeyError):
        data.image("00001.tar@7")


def test_shards_are_gone_through_once_and_again_when_they_change(tmp_path, source, encoded, monkeypatch):
    passes = []
    samples = webdataset._samples
    monkeypatch.setattr(webdataset, "_samples", lambda shard: passes.append(shard.name) or samples(shard))
    for name in ("a.tar", "b.tar"):
        write(tmp_path / name, ("0", pair(encoded, 10, 20, name, 1.0)))
    for _ in range(2):
        assert source("webdataset", path=str(tmp_path)).prompts == ["a.tar", "b.tar"]
    write(tmp_path / "b.tar", ("0", pair(encoded, 10, 20, "other", 1.0)))
    assert source("webdataset", path=str(tmp_path)).prompts == ["a.tar", "other"]
    assert passes == ["a.tar", "b.tar", "b.tar"]


def test_labels_and_captions_come_from_fields_or_json(tmp_path, source, encoded):
    write(
        tmp_path / "a.tar",
        ("x/0", {"png": encoded(10, kind="PNG"), "txt": "one\n", "cls": "1"}),
        ("x/1", {"jpg": encoded(20), "json": json.dumps({"caption": "two", "label": False})}),
        ("y/1", {"jpg": encoded(30), "json": json.dumps({"prompt": "three"})}),
        ("y/2", {"jpg": encoded(40)}),
    )
    labels = source("webdataset_labels", path=str(tmp_path / "a.tar"))
    assert [(sample.prompt, sample.desirable) for sample in labels.view("labels")] == [("one", True), ("two", False)]
    assert labels.num_filtered == {"no label": 1, "empty prompt": 1}
    captions = source("webdataset_captions", path=str(tmp_path))
    assert [(s.prompt, int(s.image.pixels[0, 0, 0])) for s in captions.view("images")] == [
        ("one", 10),
        ("two", 20),
        ("three", 30),
    ]
    with pytest.raises(UserError, match="do not have 2 images each; use data=webdataset_captions or"):
        _ = source("webdataset", path=str(tmp_path)).prompts


def test_damaged_shards_are_told_in_a_sentence(tmp_path, source, encoded):
    with pytest.raises(UserError, match=r"nor a folder with .tar files"):
        _ = source("webdataset", path=str(tmp_path)).prompts
    (tmp_path / "a.tar").write_bytes(b"\x1f\x8b" + bytes(600))
    with pytest.raises(UserError, match=r"a.tar is not a .tar file, or is incomplete"):
        _ = source("webdataset", path=str(tmp_path)).prompts
    write(tmp_path / "a.tar", ("0", pair(encoded, 10, 20, "a", 1.0) | {"label_0.txt": "yes"}))
    with pytest.raises(UserError, match=r"sample 0 of .*a.tar has a label or json that cannot be read"):
        _ = source("webdataset", path=str(tmp_path)).prompts


def test_a_shard_that_is_damaged_in_the_middle_is_refused(tmp_path, source, encoded):
    """The library for tar files stops there without a word, and the rest of the samples would be missing."""
    write(tmp_path / "a.tar", *((str(i), pair(encoded, i, 20, "a", 1.0)) for i in range(3)))
    assert len(source("webdataset", path=str(tmp_path)).view("pairs")) == 3
    content = bytearray((tmp_path / "a.tar").read_bytes())
    header = content.index(b"1.", 1024)
    content[header + 150] ^= 1  # a digit of the checksum
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(UserError, match=r"a.tar is not a .tar file, or is incomplete: it is damaged at byte [\d,]+"):
        _ = source("webdataset", path=str(tmp_path)).prompts


def test_labels_that_mean_nothing_are_refused_with_the_name_of_the_image(tmp_path, source, encoded):
    write(tmp_path / "a.tar", ("0", pair(encoded, 10, 20, "a", 5.5)))
    with pytest.raises(UserError, match=r"has the label 5.5 for a.tar@\d+; expected a probability, 0..1"):
        _ = source("webdataset", path=str(tmp_path)).prompts
    write(tmp_path / "a.tar", ("0", {"jpg": encoded(10), "txt": "one", "cls": "0.7"}))
    with pytest.raises(UserError, match=r"has the label 0.7 for a.tar@\d+; expected 1 for desirable or 0 for not"):
        _ = source("webdataset_labels", path=str(tmp_path)).prompts
