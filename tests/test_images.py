"""Which pictures get a score, which are refused, and in which words: the table of `alignbench.images`."""

import io

import numpy as np
import pytest
from PIL import Image

from alignbench.images import ImageError, decoded, opened
from evaluators.networks.preprocess import rgb

RAMP = np.arange(0, 256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)


def encoded(image: Image.Image, kind: str = "PNG", **settings) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def ramp(mode: str = "RGB") -> Image.Image:
    return Image.fromarray(RAMP).convert(mode)


def seen(content: bytes) -> np.ndarray:
    """Return what evaluators see of a file."""
    return np.asarray(rgb(decoded(content)))


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA"])
def test_grey_palette_and_opaque_alpha_are_seen_as_their_colours(mode):
    image = ramp("L").convert("P") if mode == "P" else ramp(mode)  # a palette of greys has each of them
    np.testing.assert_array_equal(seen(encoded(image)), RAMP)


def test_cmyk_is_seen_as_pil_turns_it_into_rgb():
    content = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100)
    assert np.abs(seen(content).astype(int) - [255, 0, 0]).max() <= 3


def test_16_bits_are_scaled_to_8_instead_of_cut_off():
    content = encoded(Image.fromarray(np.full((8, 8), 257 * 100, dtype=np.uint16)))
    np.testing.assert_array_equal(seen(content), np.full((8, 8, 3), 100))


def test_a_rotation_noted_in_exif_is_not_applied():
    image = Image.new("RGB", (32, 16))
    exif = image.getexif()
    exif[0x0112] = 6
    assert seen(encoded(image, "JPEG", exif=exif)).shape == (16, 32, 3)


@pytest.mark.parametrize("size", [(8, 8), (8, 160), (640, 33)])
def test_any_size_and_shape_that_is_not_degenerate_is_taken(size):
    assert decoded(encoded(Image.new("RGB", size))).size == size


@pytest.mark.parametrize("size", [(7, 64), (64, 1), (8, 161), (1000, 49)])
def test_degenerate_sizes_are_refused(size):
    with pytest.raises(ImageError, match=f"is {size[0]} x {size[1]} pixels; sides must have at least 8"):
        decoded(encoded(Image.new("RGB", size)))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_several_frames_are_refused(kind):
    frames = [Image.new("RGB", (16, 16), (shade, 0, 0)) for shade in (0, 120, 240)]
    with pytest.raises(ImageError, match="has 3 frames; give the one"):
        decoded(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))


def test_transparent_pixels_are_refused():
    clear = ramp("RGBA")
    clear.putpixel((3, 4), (1, 2, 3, 254))
    palette = ramp("P")
    palette.info["transparency"] = palette.getpixel((3, 4))
    for image in (clear, palette):
        with pytest.raises(ImageError, match="has transparent pixels; lay it over"):
            decoded(encoded(image))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_truncated_files_are_refused(kind, share):
    detail = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    content = encoded(detail, kind)
    with pytest.raises(ImageError, match="is damaged"):
        decoded(content[: int(share * len(content))])


def test_channels_of_32_bits_are_refused_unless_16_hold_their_values():
    for values in (np.full((8, 8), 0.5, np.float32), np.full((8, 8), 2**16, np.int32), np.full((8, 8), -1, np.int32)):
        with pytest.raises(ImageError, match="has 32 bits a channel"):
            decoded(encoded(Image.fromarray(values), "TIFF"))
    wide = encoded(Image.fromarray(np.full((8, 8), 257 * 100, dtype=np.int32)), "TIFF")
    np.testing.assert_array_equal(seen(wide), np.full((8, 8, 3), 100))


def test_a_tiff_whose_next_frame_is_nowhere_is_damaged():
    content = bytearray(encoded(Image.new("RGB", (16, 16)), "TIFF"))
    first = int.from_bytes(content[4:8], "little")
    end = first + 2 + 12 * int.from_bytes(content[first : first + 2], "little")
    content[end : end + 4] = (len(content) - 16).to_bytes(4, "little")  # into the black pixels
    with pytest.raises(ImageError, match="is damaged"):
        decoded(bytes(content))


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n" + bytes(100), b"<html></html>"])
def test_what_is_no_picture_is_refused(content):
    with pytest.raises(ImageError, match="is damaged"):
        decoded(content)


def test_a_header_that_promises_too_much_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageError, match="is damaged"):
        decoded(encoded(ramp()))


def test_the_file_is_named(tmp_path):
    (tmp_path / "cut.png").write_bytes(encoded(ramp())[:40])
    with pytest.raises(ImageError, match=r"cut.png is damaged"):
        opened(tmp_path / "cut.png")
    with pytest.raises(ImageError, match=r"none.png cannot be read \(No such file"):
        opened(tmp_path / "none.png")
    with pytest.raises(ImageError, match=r"^the picture is 1 x 1 pixels"):
        opened(Image.new("RGB", (1, 1)))
