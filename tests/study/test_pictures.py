"""What raters get tells nothing but the pixels."""

import io

import numpy as np
import pytest
from PIL import Image

from alignbench.study.pictures import GREY, BlindPictures
from alignbench.study.plan import ShownImage


def decoded(content):
    return Image.open(io.BytesIO(content))


def test_pixels_stay_and_metadata_goes(world):
    folder = world.study("base", "dpo")
    run = folder.study.runs[1]
    original = Image.open(folder.image(run, "p0"))
    assert original.info["Software"] == "made by dpo"
    content = BlindPictures(folder).png("p0", ShownImage(run))
    np.testing.assert_array_equal(np.asarray(decoded(content)), np.asarray(original))
    assert decoded(content).info == {}
    chunks = [content[place : place + 4] for place in range(len(content)) if content[place : place + 4] in
              (b"tEXt", b"iTXt", b"zTXt", b"eXIf", b"iCCP", b"tIME", b"gAMA", b"pHYs")]  # fmt: skip
    assert chunks == []


def test_images_of_different_sizes_become_alike(world):
    world.run("base", size=(64, 48))
    world.run("dpo", size=(128, 128))
    folder = world.study("base", "dpo")
    base, dpo = (decoded(BlindPictures(folder).png("p0", ShownImage(run))) for run in folder.study.runs)
    assert base.size == dpo.size == (64, 48)
    assert dpo.getpixel((0, 24)) == GREY  # beside the square
    assert dpo.getpixel((32, 24)) != GREY
    np.testing.assert_array_equal(np.asarray(base), np.asarray(Image.open(folder.image(folder.study.runs[0], "p0"))))


@pytest.mark.parametrize("mode", ["L", "P", "I;16", "RGBA"])
def test_images_of_any_kind_become_plain_rgb(world, mode):
    folder = world.study("base", "dpo")
    run = folder.study.runs[0]
    values = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    picture = (
        Image.fromarray(values) if mode == "I;16" else Image.fromarray((values // 256).astype(np.uint8)).convert(mode)
    )
    picture.save(folder.image(run, "p0"))
    shown = decoded(BlindPictures(folder).png("p0", ShownImage(run)))
    assert shown.mode == "RGB"
    np.testing.assert_allclose(np.asarray(shown)[..., 0], values / 257, atol=1.5)


def test_damage_is_plain_to_see_and_the_same_again(world):
    folder = world.study("base", "dpo")
    run = folder.study.runs[0]
    Image.new("RGB", (64, 64), "white").save(folder.image(run, "p0"))
    pictures = BlindPictures(folder)
    damaged = np.asarray(decoded(pictures.png("p0", ShownImage(run, damaged=True))))
    assert 0.4 < (damaged != 255).any(axis=-1).mean() < 0.6
    assert pictures.png("p0", ShownImage(run, damaged=True)) == BlindPictures(folder).png(
        "p0", ShownImage(run, damaged=True)
    )
