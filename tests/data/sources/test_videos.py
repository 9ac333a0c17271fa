"""Videos of one's own as training data: as pictures are, with a rate and a number of frames that are the model's."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from alignbench import videos
from alignbench.context import Context
from alignbench.crop import CropSpec
from alignbench.data.batches.encode import Encoder, fit
from alignbench.data.source import TrainingImage
from alignbench.errors import UserError
from alignbench.videos import write_video
from tests.videos import tiny_video_model

NUM_FRAMES = 5
RNG = np.random.default_rng(0)


def video(num_frames=6, height=40, width=48):
    return RNG.integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)


@pytest.fixture
def frames():
    return {name: video() for name in ("a", "b")}


@pytest.fixture
def folder(tmp_path, frames):
    for name, pixels in frames.items():
        write_video(tmp_path / f"{name}.webp", pixels, 16)
    write_video(tmp_path / "short.webp", video(3), 16)
    Image.fromarray(video()[0]).save(tmp_path / "still.png")
    rows = [("p", "a.webp", "b.webp"), ("q", "a.webp", "short.webp"), ("r", "still.png", "b.webp")]
    lines = [json.dumps({"prompt": prompt, "image_w": w, "image_l": l}) for prompt, w, l in rows]  # noqa: E741
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    return tmp_path


def of_videos(source, name, path, **values):
    return source(name, path=str(path), num_frames=NUM_FRAMES, fps=16, **values)


def test_the_first_frames_are_read_and_what_is_too_short_or_no_video_is_left_out_by_name(source, folder, frames):
    data = of_videos(source, "local", folder)
    (pair,) = data.view("pairs")
    assert np.array_equal(pair.image_w.pixels, frames["a"][:NUM_FRAMES])
    assert np.array_equal(pair.image_l.pixels, frames["b"][:NUM_FRAMES])
    assert data.size(pair.image_w) == (40, 48)
    assert data.summary() == (
        f"1 filtered out (a picture in place of a video, the first is {folder / 'still.png'}), "
        f"1 filtered out (video too short, the first is {folder / 'short.webp'})"
    )


def test_what_is_read_of_videos_is_part_of_all_names_of_it_and_pictures_keep_theirs(source, folder):
    five = of_videos(source, "local", folder, check_images=False)
    others = [
        source("local", path=str(folder), check_images=False, **values)
        for values in ({}, {"num_frames": 1, "fps": 24}, {"num_frames": 9, "fps": 16}, {"num_frames": 5, "fps": 8})
    ]
    fingerprints = [one.fingerprint for one in (five, *others)]
    addresses = [one.address("a.webp") for one in (five, *others)]
    for names in (fingerprints, addresses):
        assert names[1] == names[2]
        assert len(set(names)) == 4
    assert addresses[1] in addresses[0]


def test_pictures_alone_are_no_data_of_a_model_of_videos_nor_videos_of_a_model_of_pictures(source, tmp_path):
    for name in ("a", "b"):
        Image.fromarray(video()[0]).save(tmp_path / f"{name}.png")
        write_video(tmp_path / f"{name}.webp", video(), 16)
        (tmp_path / f"{name}.mp4").write_bytes(b"a film")
    list_file = tmp_path / "pairs.jsonl"
    for suffix, build, reason in (
        ("png", of_videos, "a picture in place of a video"),
        ("webp", lambda source, name, path: source(name, path=str(path)), "several frames"),
        ("mp4", lambda source, name, path: source(name, path=str(path)), "several frames"),
    ):
        list_file.write_text(json.dumps({"prompt": "p", "image_w": f"a.{suffix}", "image_l": f"b.{suffix}"}))
        message = rf"data=local holds nothing to train on: 1 filtered out \({reason}, the first is .*\.{suffix}\)"
        with pytest.raises(UserError, match=message):
            build(source, "local", tmp_path).view("pairs")


def test_captioned_and_labelled_videos_are_read_alike(source, folder, frames):
    (folder / "pairs.jsonl").unlink()
    for name in ("a", "short"):
        (folder / f"{name}.txt").write_text("a caption")
    (folder / "labels.csv").write_text("file_path,caption,label\nb.webp,a caption,1\n")
    captions = of_videos(source, "captions", folder)
    assert np.array_equal(captions.view("images")[0].image.pixels, frames["a"][:NUM_FRAMES])
    assert captions.num_filtered["video too short"] == 1
    labels = of_videos(source, "kto_csv", folder / "labels.csv")
    assert np.array_equal(labels.view("labels")[0].image.pixels, frames["b"][:NUM_FRAMES])


def test_films_without_the_package_are_refused_as_soon_as_the_list_is_read(source, folder, monkeypatch):
    (folder / "pairs.jsonl").write_text(json.dumps({"prompt": "p", "image_w": "a.mp4", "image_l": "b.mp4"}))
    for name in ("a", "b"):
        (folder / f"{name}.mp4").write_bytes(b"a film")
    monkeypatch.setattr(videos, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'a\.mp4 is a film, .*pip install "alignbench\[video\]"'):
        _ = of_videos(source, "local", folder).prompts


def test_all_frames_have_one_crop_that_of_a_picture(frames):
    crop = CropSpec((32, 32), (0.3, 0.7), flipped=True)
    cropped = fit(TrainingImage("a", frames["a"]), crop)
    assert cropped.shape == (1, 6, 3, 32, 32)
    for number, frame in enumerate(frames["a"]):
        torch.testing.assert_close(cropped[:, number], fit(TrainingImage("a", frame), crop))


@pytest.mark.parametrize("posterior", ["mode", "sample"])
def test_a_video_is_encoded_to_latents_with_frames(frames, posterior):
    model = tiny_video_model(NUM_FRAMES)
    encoder = Encoder(model, posterior)
    videos = [TrainingImage(name, pixels[:NUM_FRAMES]) for name, pixels in frames.items()]
    encoded = encoder.images(videos)
    assert encoded[0]["size"].tolist() == [40, 48]
    latents = encoder.latents(encoded, torch.tensor([0, 1]), Context(step=0, seed=0, micro_batch_size=2))
    assert latents.shape == (2, *model.latent_shape)
    if posterior == "mode":
        mean, _ = model.encode_posterior(fit(videos[0], encoder.centre))
        torch.testing.assert_close(latents[0], model.latents_of(mean)[0])
