"""Videos: frames are stored exactly, and read at a rate of their own, whatever that of the file is."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from alignbench import videos
from alignbench.errors import UserError
from alignbench.images import ImageError
from alignbench.videos import (
    STILL,
    TOO_SHORT,
    FrameSpec,
    check_films,
    read_frames,
    read_still,
    read_video,
    read_video_header,
    write_video,
)

RNG = np.random.default_rng(0)
SPEC = FrameSpec(5, 16.0)


def noise(num=5, height=24, width=16):
    return RNG.integers(0, 256, (num, height, width, 3), dtype=np.uint8)


def shades(num, step=10):
    """Frames that are told apart by their brightness, number times step."""
    return np.stack([np.full((16, 16, 3), step * number, np.uint8) for number in range(num)])


def animation(frames, milliseconds, kind="WEBP"):
    file = io.BytesIO()
    first, *others = map(Image.fromarray, frames)
    options = {"lossless": True} if kind == "WEBP" else {}
    first.save(file, kind, save_all=True, append_images=others, duration=milliseconds, loop=0, **options)
    return io.BytesIO(file.getvalue())


def film(frames, rate, suffix="mp4", codec="libx264"):
    av = pytest.importorskip("av")
    file = io.BytesIO()
    with av.open(file, "w", format=suffix) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in (*(av.VideoFrame.from_ndarray(one, format="rgb24") for one in frames), None):
            container.mux(stream.encode(frame))
    return io.BytesIO(file.getvalue())


# ---- generated videos


@pytest.mark.parametrize("fps", [16, 24.0, 7.5])
def test_a_stored_video_has_exactly_the_frames_that_were_made_and_plays_at_their_rate(tmp_path, fps):
    frames = noise()
    write_video(tmp_path / "a.webp", frames, fps)
    read = read_frames((tmp_path / "a.webp").read_bytes(), FrameSpec(5, fps))
    assert np.array_equal(np.stack(read), frames)
    with Image.open(tmp_path / "a.webp") as image:
        durations = []
        for number in range(image.n_frames):
            image.seek(number)
            image.load()
            durations.append(image.info["duration"])
        assert image.info["loop"] == 0  # for ever
    assert sum(durations) == round(5000 / fps)
    write_video(tmp_path / "b.webp", frames, fps)
    assert (tmp_path / "a.webp").read_bytes() == (tmp_path / "b.webp").read_bytes()


@pytest.mark.parametrize("alike", [(0, 0, 1, 1, 1), (0, 1, 1, 2, 2), (0, 0, 0, 0, 0)])
def test_equal_frames_which_are_stored_once_are_all_read(tmp_path, alike):
    frames = noise()[list(alike)]
    write_video(tmp_path / "a.webp", frames, 16)
    assert np.array_equal(np.stack(read_frames((tmp_path / "a.webp").read_bytes(), SPEC)), frames)


def test_a_stored_video_that_is_not_what_was_made_is_refused(tmp_path):
    write_video(tmp_path / "a.webp", noise(3), 16)
    content = (tmp_path / "a.webp").read_bytes()
    with pytest.raises(ImageError, match=r"is too short for 5 frames at 16 a second"):
        read_frames(content, SPEC)
    with pytest.raises(ImageError, match="is damaged"):
        read_frames(content[:200], SPEC)
    with pytest.raises(ImageError, match="has 3 frames; give one of them"):
        read_frames(content, None)
    write_video(tmp_path / "b.webp", noise(5, height=4), 16)
    with pytest.raises(ImageError, match="sides must have at least 8"):
        read_frames((tmp_path / "b.webp").read_bytes(), SPEC)


def test_one_frame_stands_for_a_video_the_middle_one_and_a_picture_for_itself(tmp_path):
    write_video(tmp_path / "a.webp", shades(9), 16)
    assert np.asarray(read_still(tmp_path / "a.webp")).mean() == 40
    Image.new("RGB", (4, 4), (7, 7, 7)).save(tmp_path / "a.png")
    assert np.asarray(read_still(tmp_path / "a.png")).mean() == 7
    (tmp_path / "b.png").write_bytes(b"nothing")
    with pytest.raises(ImageError, match=r"b\.png is damaged"):
        read_still(tmp_path / "b.png")


# ---- training videos


def test_a_rate_is_that_of_the_model_and_a_frame_is_what_is_shown_in_the_middle_of_its_time():
    ends = [(number + 1) / 24 for number in range(12)]
    frames = list(zip(ends, range(12), strict=True))
    assert FrameSpec(5, 24).choose(frames) == [0, 1, 2, 3, 4]
    assert FrameSpec(5, 16).choose(frames) == [0, 2, 3, 5, 6]  # 24 * (number + 0.5) / 16, rounded down
    assert FrameSpec(5, 48).choose(frames) == [0, 0, 1, 1, 2]
    assert FrameSpec(9, 16).choose(frames) == [0, 2, 3, 5, 6, 8, 9, 11]  # half a second has 8 frames
    assert FrameSpec(1, 16).choose(iter(frames)) == [0]


@pytest.mark.parametrize("kind", ["WEBP", "GIF", "PNG"])
def test_animated_pictures_are_resampled_by_the_durations_of_their_frames(kind):
    read = read_video(animation(shades(4), [100, 200, 100, 100], kind), f"a.{kind.lower()}", FrameSpec(5, 10))
    assert read.shape == (5, 16, 16, 3)
    assert read.mean(axis=(1, 2, 3)).tolist() == [0, 10, 10, 20, 30]


@pytest.mark.parametrize(("suffix", "codec"), [("mp4", "libx264"), ("mov", "libx264"), ("webm", "libvpx-vp9")])
def test_films_are_resampled_by_the_times_of_their_frames(suffix, codec):
    content = film(shades(12, step=20), 24, suffix, codec)
    read = read_video(content, f"FILM.{suffix.upper()}", FrameSpec(5, 16))
    assert read.shape == (5, 16, 16, 3)
    assert abs(read.mean(axis=(1, 2, 3)) - [0, 40, 60, 100, 120]).max() < 5  # their codecs lose a little
    content.seek(0)
    assert read_video_header(content, f"a.{suffix}", FrameSpec(5, 16))[:2] == (16, 16)
    content.seek(0)
    with pytest.raises(ImageError, match=r"is too short for 9 frames at 16 a second") as told:
        read_video(content, f"a.{suffix}", FrameSpec(9, 16))
    assert told.value.fault == TOO_SHORT


def test_films_of_phones_are_turned_upright():
    frame = SimpleNamespace(rotation=-90, to_ndarray=lambda format: np.arange(6).reshape(2, 3, 1))
    assert videos._upright(frame)[..., 0].tolist() == [[3, 0], [4, 1], [5, 2]]  # clockwise


def test_what_is_no_video_is_refused_by_what_it_is():
    picture = io.BytesIO()
    Image.new("RGB", (16, 16)).save(picture, "PNG")
    for content, name, message, fault in (
        (picture.getvalue(), "a.png", "is a picture, and the model is trained on videos", STILL),
        (animation(shades(3), 60).getvalue(), "a.webp", "is too short for 5 frames", TOO_SHORT),
        (b"nothing", "a.webp", "is damaged", "unreadable image"),
        (b"nothing", "a.mp4", "is damaged", "unreadable image"),
    ):
        if name.endswith("mp4"):
            pytest.importorskip("av")
        with pytest.raises(ImageError, match=message) as told:
            read_video_header(io.BytesIO(content), name, SPEC)
        assert told.value.fault == fault


def test_without_the_package_films_are_refused_with_what_to_install(monkeypatch):
    monkeypatch.setattr(videos, "find_spec", lambda name: None)
    check_films(["a.webp", "b.gif"])
    with pytest.raises(UserError, match=r'b\.MP4 is a film, .*pip install "alignbench\[video\]"'):
        check_films(["a.webp", "b.MP4"])
