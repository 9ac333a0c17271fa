"""Transparent pixels are laid on white, for training, scoring, pictures of reports and maps of a ControlNet alike."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from alignbench.images import opened
from alignbench.report.page.sprites import ThumbnailSource, draw
from evaluators.networks.preprocess import ClipPixels, HpsPixels

RED, WHITE, BLUE = (255, 0, 0), (255, 255, 255), (0, 0, 255)


@pytest.fixture
def hidden_red(tmp_path):
    """Return a blue picture, 16 x 16, whose left upper quarter is transparent, with red behind it."""
    image = Image.new("RGBA", (16, 16), (*BLUE, 255))
    image.paste((*RED, 0), (0, 0, 8, 8))
    image.save(tmp_path / "hidden.png")
    image.convert("RGB").save(tmp_path / "red.png")
    return tmp_path / "hidden.png"


def expected():
    pixels = np.tile(np.uint8(BLUE), (16, 16, 1))
    pixels[:8, :8] = WHITE
    return pixels


def test_training_does_not_see_the_colour_behind_transparent_pixels(hidden_red, source):
    row = {"prompt": "p", "image_w": "hidden.png", "image_l": "red.png"}
    (hidden_red.parent / "pairs.jsonl").write_text(json.dumps(row))
    data = source("local", path=str(hidden_red.parent))
    (pair,) = data.view("pairs")
    np.testing.assert_array_equal(pair.image_w.pixels, expected())
    assert tuple(pair.image_l.pixels[0, 0]) == RED
    assert not data.num_filtered


def test_evaluators_score_the_picture_on_white(hidden_red):
    np.testing.assert_array_equal(np.asarray(opened(hidden_red)), expected())
    on_white = Image.fromarray(expected())
    for pipeline in (ClipPixels(16), HpsPixels(16, "antialias")):
        assert torch.equal(pipeline([Image.open(hidden_red)]), pipeline([on_white]))


def test_thumbnails_of_a_report_show_what_was_scored(hidden_red):
    on_white = hidden_red.with_name("white.png")
    Image.fromarray(expected()).save(on_white)
    sheets = [np.asarray(draw([ThumbnailSource(file, "digest")])) for file in (hidden_red, on_white)]
    np.testing.assert_array_equal(*sheets)


def test_an_opaque_alpha_channel_changes_no_pixel():
    colours = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    image = Image.fromarray(colours)
    image.putalpha(255)
    np.testing.assert_array_equal(np.asarray(opened(image)), colours)
