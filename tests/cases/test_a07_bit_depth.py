"""Training and scoring see the same pixels of a file, whatever its mode; 16 bits are scaled to 8, 32 are refused."""

import hashlib
import io

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from alignbench.data.existing_images.folders import read_image_folders
from alignbench.errors import UserError
from alignbench.evaluator import Evaluator
from alignbench.images import ImageError, decoded, read_picture
from evaluators.remote import PngFiles

COLOURS = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
GREYS = np.arange(24 * 32, dtype=np.uint16).reshape(24, 32) * 85  # 0..65195
OPACITY = np.linspace(0, 255, 24 * 32).round().astype(np.uint8).reshape(24, 32)
COLOUR, GREY = Image.fromarray(COLOURS), Image.fromarray((GREYS // 257).astype(np.uint8))


def with_alpha(image, opacity):
    image = image.copy()
    image.putalpha(Image.fromarray(opacity))
    return image


def rotated():
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return {"exif": exif}


FILES = {  # name: picture, format, settings of the format
    "rgb.png": (COLOUR, "PNG", {}),
    "rgb.jpg": (COLOUR, "JPEG", {}),
    "rgb.bmp": (COLOUR, "BMP", {}),
    "rgb.tif": (COLOUR, "TIFF", {}),
    "rgb.webp": (COLOUR, "WEBP", {"lossless": True}),
    "grey.png": (GREY, "PNG", {}),
    "bilevel.png": (GREY.convert("1"), "PNG", {}),
    "palette.png": (COLOUR.quantize(40), "PNG", {}),
    "palette.gif": (COLOUR.quantize(40), "GIF", {}),
    "16_bits.png": (Image.fromarray(GREYS), "PNG", {}),
    "16_bits.tif": (Image.fromarray(GREYS), "TIFF", {}),
    "16_in_32_bits.tif": (Image.fromarray(GREYS.astype(np.int32)), "TIFF", {}),
    "16_bits_with_transparent_grey.png": (Image.fromarray(GREYS), "PNG", {"transparency": 850}),
    "16_bits_rotated.png": (Image.fromarray(GREYS), "PNG", rotated()),
    "cmyk.jpg": (COLOUR.convert("CMYK"), "JPEG", {}),
    "cmyk.tif": (COLOUR.convert("CMYK"), "TIFF", {}),
    "rotated.jpg": (COLOUR, "JPEG", rotated()),
    "rotated.png": (COLOUR, "PNG", rotated()),
    "opaque.png": (with_alpha(COLOUR, OPACITY * 0 + 255), "PNG", {}),
    "transparent.png": (with_alpha(COLOUR, OPACITY), "PNG", {}),
    "transparent.webp": (with_alpha(COLOUR, OPACITY), "WEBP", {"lossless": True, "exact": True}),
    "transparent_grey.png": (with_alpha(GREY, OPACITY), "PNG", {}),
    "transparent_palette.png": (COLOUR.quantize(40), "PNG", {"transparency": 3}),
    "transparent_colour.png": (COLOUR, "PNG", {"transparency": tuple(COLOURS[0, 0].tolist())}),
    "palette_with_opacities.png": (COLOUR.quantize(40), "PNG", {"transparency": bytes(range(0, 240, 6))}),
}


def content(name):
    image, kind, settings = FILES[name]
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def trained_on(source, folder, name):
    """Return the pixels that training reads of the only picture of a folder."""
    (folder / name).with_suffix(".txt").write_text("a caption")
    (sample,) = source("captions", path=str(folder)).view("images")
    assert sample.image.key == name
    return sample.image.pixels


class Keeper(Evaluator):
    """Keeps the files that it would send to a server."""

    name, version, higher_is_better, precision = "keeper", "1", True, "float32"
    range = (0.0, 0.0)
    preprocess = PngFiles("pixels")

    def encode_prompts(self, prompts):
        return list(prompts)

    def score_features(self, inputs, encoded):
        self.files = inputs
        return torch.zeros(len(inputs))


def scored(folder, name):
    """Return the pixels that evaluators read of a listed picture, by way of the file that a remote evaluator sends."""
    (folder / "list.jsonl").write_text(f'{{"file": "{name}", "prompt": "a caption"}}')
    (read,) = read_image_folders([str(folder / "list.jsonl")])
    (path,) = read.records[0].images
    keeper = Keeper()
    keeper.score([path], ["a caption"])
    (sent,) = keeper.files
    return np.asarray(Image.open(io.BytesIO(sent)))


@pytest.mark.parametrize("name", FILES)
def test_training_and_scoring_see_equal_pixels(tmp_path, source, name):
    (tmp_path / name).write_bytes(content(name))
    pixels = trained_on(source, tmp_path, name)
    assert pixels.dtype == np.uint8
    assert pixels.shape == ((32, 24, 3) if "rotated" in name else (24, 32, 3))
    np.testing.assert_array_equal(scored(tmp_path, name), pixels)
    np.testing.assert_array_equal(np.asarray(read_picture(tmp_path / name)), pixels)  # reports and studies


@pytest.mark.parametrize("name", ["16_bits.png", "16_bits.tif", "16_in_32_bits.tif"])
def test_a_grey_ramp_of_16_bits_is_not_clipped_to_white(tmp_path, source, name):
    (tmp_path / name).write_bytes(content(name))
    pixels = trained_on(source, tmp_path, name)
    np.testing.assert_array_equal(pixels, (GREYS / 257).round().astype(np.uint8)[..., None].repeat(3, -1))
    assert abs(pixels.mean() - 127) < 1


@pytest.mark.parametrize("name", ["rgb.png", "rgb.jpg", "rgb.bmp", "grey.png", "palette.png", "cmyk.jpg", "opaque.png"])
def test_ordinary_pictures_have_the_pixels_that_they_had_in_version_0_1_0(name):
    with Image.open(io.BytesIO(content(name))) as image:
        before = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(np.asarray(decoded(content(name))), before)


@pytest.mark.parametrize(
    "values", [np.full((16, 16), 0.5, np.float32), np.full((16, 16), 70_000, np.int32)], ids=["float", "integer"]
)
def test_32_bits_are_refused_in_a_sentence_and_counted(tmp_path, source, values):
    Image.fromarray(values).save(tmp_path / "deep.tif")
    (tmp_path / "good.png").write_bytes(content("rgb.png"))
    for name in ("deep", "good"):
        (tmp_path / f"{name}.txt").write_text("a caption")
    data = source("captions", path=str(tmp_path))
    assert [sample.image.key for sample in data.view("images")] == ["good.png"]
    assert data.summary() == f"1 filtered out (32 bits a channel, the first is {tmp_path / 'deep.tif'})"
    with pytest.raises(ImageError, match=r"deep.tif has 32 bits a channel, whose range is not known; save it with 8"):
        Keeper().score([tmp_path / "deep.tif"], ["a caption"])


def test_training_without_checks_stops_at_a_refused_picture_with_the_same_reason(tmp_path, source):
    Image.fromarray(np.full((16, 16), 0.5, np.float32)).save(tmp_path / "deep.tif")
    (tmp_path / "deep.txt").write_text("a caption")
    (sample,) = source("captions", path=str(tmp_path), check_images=False).view("images")
    with pytest.raises(UserError, match=r"^the training image deep.tif has 32 bits a channel, .* set data.exclude"):
        _ = sample.image.pixels


CONVERTED = {name for name in FILES if name.startswith(("16", "transparent", "opaque", "palette_with"))}


@pytest.mark.parametrize("name", FILES)
def test_pictures_are_encoded_again_only_if_version_0_1_0_trained_on_other_pixels(tmp_path, source, name):
    (tmp_path / name).write_bytes(content(name))
    (tmp_path / name).with_suffix(".txt").write_text("a caption")
    data = source("captions", path=str(tmp_path))
    before = hashlib.sha256(content(name)).hexdigest()
    assert data.address(name) == (f"{before}/converted" if name in CONVERTED else before)
    unchecked = source("captions", path=str(tmp_path), check_images=False)
    assert (data.fingerprint == unchecked.fingerprint) == (name not in CONVERTED)
