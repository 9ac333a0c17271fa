"""A picture that is too large is refused as too large, and one with a long text is read; neither is called damaged."""

import json

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from alignbench.errors import UserError
from alignbench.images import opened


@pytest.fixture
def folder(tmp_path, encoded):
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(encoded(50, (16, 16), "PNG"))
    rows = [{"prompt": name, "image_w": "a.png", "image_l": f"{name}.png"} for name in ("b", "odd")]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def test_a_picture_of_196_megapixels_is_too_large_for_training_and_scoring(folder, source):
    Image.new("L", (14_000, 14_000)).save(folder / "odd.png")
    data = source("local", path=str(folder))
    assert [sample.prompt for sample in data.view("pairs")] == ["b"]
    assert data.summary() == f"1 filtered out (too many pixels, the first is {folder / 'odd.png'})"
    reason = r"odd.png has more than 178,956,970 pixels; make it smaller"
    with pytest.raises(UserError, match=reason):
        opened(folder / "odd.png")
    with pytest.raises(UserError, match=rf"^the training image {reason}; to leave it out"):
        _ = source("local", path=str(folder), check_images=False).view("pairs")[1].image_l.pixels


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("after_pixels", [True, False])
def test_a_png_that_holds_3_mb_of_text_is_read(folder, source, compressed, after_pixels):
    texts = PngImagePlugin.PngInfo()
    texts.add_text("workflow", "x" * 3_000_000, zip=compressed)
    if after_pixels:
        texts.chunks = [(*chunk[:2], True) for chunk in texts.chunks]
    Image.new("RGB", (16, 16), (1, 2, 3)).save(folder / "odd.png", pnginfo=texts)
    data = source("local", path=str(folder))
    assert data.view("pairs")[1].image_l.pixels[0, 0].tolist() == [1, 2, 3]
    assert data.summary() == ""
    np.testing.assert_array_equal(np.asarray(opened(folder / "odd.png"))[0, 0], [1, 2, 3])


def test_several_frames_have_their_own_reason(folder, source):
    frames = [Image.new("RGB", (16, 16), (shade, 0, 0)) for shade in (0, 120)]
    frames[0].save(folder / "odd.png", save_all=True, append_images=frames[1:])
    data = source("local", path=str(folder))
    assert len(data.view("pairs")) == 1
    assert data.summary() == f"1 filtered out (several frames, the first is {folder / 'odd.png'})"


def test_a_damaged_picture_is_still_called_unreadable(folder, source):
    (folder / "odd.png").write_bytes((folder / "a.png").read_bytes()[:40])
    data = source("local", path=str(folder))
    assert len(data.view("pairs")) == 1
    assert data.summary() == f"1 filtered out (unreadable image, the first is {folder / 'odd.png'})"
