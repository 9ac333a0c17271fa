"""Images are written in threads as they would be by the sampling itself, and no fault of a thread is lost."""

import errno
import threading

import numpy as np
import pytest
from PIL import Image

from alignbench.files import write_png
from alignbench.generation import image_writer
from alignbench.generation.image_writer import ImageWriter
from alignbench.videos import FrameSpec, write_video


def picture(number):
    return np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def test_all_files_are_there_afterwards_with_the_bytes_of_the_plain_writers(tmp_path):
    with ImageWriter(None) as writer:
        for number in range(20):
            writer.write(tmp_path / "threads" / f"{number}.png", picture(number))
    for number in range(20):
        write_png(tmp_path / "expected.png", Image.fromarray(picture(number)))
        assert (tmp_path / "threads" / f"{number}.png").read_bytes() == (tmp_path / "expected.png").read_bytes()
    assert len(list((tmp_path / "threads").iterdir())) == 20


def test_videos_are_written_as_videos(tmp_path):
    video = np.stack([picture(0), picture(1)])
    with ImageWriter(FrameSpec(2, 8.0)) as writer:
        writer.write(tmp_path / "a.webp", video)
    write_video(tmp_path / "b.webp", video, 8.0)
    assert (tmp_path / "a.webp").read_bytes() == (tmp_path / "b.webp").read_bytes()


def write_ten(folder, then=lambda: None):
    """Write ten images, and do something before leaving."""
    with ImageWriter(None) as writer:
        for number in range(10):
            writer.write(folder / f"{number}.png", picture(number))
        then()


def full_at(name):
    """Return a writer for a disk that has no room for one file."""

    def write(path, image):
        if path.name == name:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write_png(path, image)

    return write


@pytest.mark.parametrize("name", ["0.png", "9.png"])
def test_a_full_disk_reaches_the_sampling_and_other_images_stay(tmp_path, monkeypatch, name):
    monkeypatch.setattr(image_writer, "write_png", full_at(name))
    with pytest.raises(OSError, match="No space left on device") as full:
        write_ten(tmp_path)
    assert full.value.filename == str(tmp_path / name)
    assert not (tmp_path / name).exists()
    assert (tmp_path / "1.png").exists() or name == "0.png"
    assert not list(tmp_path.glob(".*"))


def test_what_was_sampled_before_an_interruption_is_written(tmp_path):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_ten(tmp_path, then=interrupted)
    assert len(list(tmp_path.iterdir())) == 10


def test_the_sampling_waits_where_too_much_is_pending(tmp_path, monkeypatch):
    may_write, written = threading.Event(), []

    def write(path, image):
        may_write.wait()
        written.append(path.name)

    monkeypatch.setattr(image_writer, "write_png", write)
    monkeypatch.setattr(image_writer, "MAX_BYTES", 3 * picture(0).nbytes)
    with ImageWriter(None) as writer:
        for number in range(3):
            writer.write(tmp_path / f"{number}.png", picture(number))
        fourth = threading.Thread(target=writer.write, args=(tmp_path / "3.png", picture(3)))
        fourth.start()
        fourth.join(timeout=0.1)
        assert fourth.is_alive()
        may_write.set()
        fourth.join(timeout=60)
        assert "0.png" in written
    assert sorted(written) == ["0.png", "1.png", "2.png", "3.png"]
