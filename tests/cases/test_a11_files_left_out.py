"""Every file of a folder that is not trained on is counted, and a format that can be decoded is read."""

import io
import tarfile

import pytest
from PIL import Image

from alignbench.data.existing_images.folders import read_image_folders
from alignbench.errors import UserError
from alignbench.generation.control.pictures import pictures_by_prompt


def captioned(folder, *names):
    for number, name in enumerate(names):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(folder / name)
        (folder / name).with_suffix(".txt").write_text(f"caption of {name}")


def test_every_format_that_can_be_decoded_is_read(tmp_path, source):
    names = ["a.png", "b.bmp", "c.tif", "d.gif", "e.webp", "f.JPG", "g.tiff", "h.jp2", "i.ppm"]
    captioned(tmp_path, *names)
    data = source("captions", path=str(tmp_path))
    assert len(data.view("labels")) == len(names)
    assert [(sample.prompt, sample.image.key) for sample in data.view("images")] == [
        (f"caption of {name}", name) for name in names
    ]
    assert {sample.image.pixels.shape for sample in data.view("images")} == {(16, 16, 3)}
    assert data.summary() == ""


def test_other_files_are_counted_with_their_suffix(tmp_path, source):
    captioned(tmp_path, "a.png")
    for name in ("b.heic", "c.HEIC", "c.npz", "LICENSE", "d.txt", ".DS_Store"):
        (tmp_path / name).write_text("something")
    (tmp_path / "b.txt").write_text("a caption")
    Image.new("RGB", (16, 16)).save(tmp_path / "e.png")
    data = source("captions", path=str(tmp_path))
    assert len(data.view("labels")) == 1
    assert data.num_filtered == {
        ".heic files are not read": 2, ".npz files are not read": 1, "files without a suffix are not read": 1,
        "caption without an image": 1, "no caption": 1,
    }  # fmt: skip
    assert "2 filtered out (.heic files are not read)" in data.summary()


def test_a_folder_of_unread_files_alone_says_so(tmp_path, source):
    (tmp_path / "a.heic").write_text("something")
    (tmp_path / "a.txt").write_text("a caption")
    with pytest.raises(UserError, match=r"nothing to train on: 1 filtered out \(.heic files are not read\)"):
        source("captions", path=str(tmp_path)).view("images")


def picture(kind):
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, kind)
    return file.getvalue()


def write_shard(path, fields):
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, content in fields.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def test_shards_are_read_in_every_format_and_others_are_counted(tmp_path, source):
    fields = {"0.bmp": picture("BMP"), "1.tiff": picture("TIFF"), "2.heic": b"something"}
    texts = {f"{number}.txt": b"a caption" for number in range(4)}  # sample 3 has no image at all
    write_shard(tmp_path / "0.tar", dict(sorted((fields | texts).items())))
    data = source("webdataset_captions", path=str(tmp_path))
    assert len(data.view("images")) == 2
    assert data.num_filtered == {".heic files are not read": 1, "missing image": 1}
    assert data.summary() == (
        "1 filtered out (.heic files are not read), "
        f"1 filtered out (missing image, the first is in a sample of {tmp_path / '0.tar'})"
    )


def test_pairs_in_an_unread_format_are_not_called_single_images(tmp_path, source):
    write_shard(tmp_path / "0.tar", {"0.a.heic": b"x", "0.b.heic": b"y", "0.txt": b"p", "0.label_0.txt": b"1"})
    with pytest.raises(UserError, match=r"nothing to train on: 1 filtered out \(.heic files are not read\)"):
        source("webdataset", path=str(tmp_path)).view("pairs")


def test_a_compressed_shard_is_not_passed_over(tmp_path, source):
    fields = {"0.png": picture("PNG"), "0.txt": b"a caption"}
    write_shard(tmp_path / "0.tar", fields)
    write_shard(tmp_path / "1.tar.gz", fields)
    with pytest.raises(UserError, match=r"1.tar.gz is compressed, .*; unpack it to a .tar file"):
        source("webdataset_captions", path=str(tmp_path)).view("images")
    (tmp_path / "1.tar.gz").rename(tmp_path / "0.tar.gz")  # it lies unpacked beside it
    assert len(source("webdataset_captions", path=str(tmp_path)).view("images")) == 1


def test_folders_of_the_hpsv2_benchmark_and_of_controlnet_take_the_same_formats(tmp_path):
    for style in ("anime", "photo"):
        (tmp_path / style).mkdir()
        Image.new("RGB", (16, 16)).save(tmp_path / style / "00000.bmp")
    (folder,) = read_image_folders([str(tmp_path)])
    assert [record.prompt_id for record in folder.records] == ["anime-00000", "photo-00000"]
    assert pictures_by_prompt(tmp_path / "anime", "key") == {"00000": tmp_path / "anime" / "00000.bmp"}
