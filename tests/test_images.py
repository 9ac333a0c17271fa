"""Which pixels pictures have, which pictures are refused, and in which words: the table of `alignbench.images`."""

import io
import pickle

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from alignbench.images import SUFFIXES, ImageError, decoded, opened, read_header, scorable

RAMP = np.arange(0, 256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)


def encoded(image: Image.Image, kind: str = "PNG", **settings) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def ramp(mode: str = "RGB") -> Image.Image:
    return Image.fromarray(RAMP).convert(mode)


def seen(content: bytes) -> np.ndarray:
    """Return the pixels of a file."""
    image = decoded(content)
    assert image.mode == "RGB"
    assert image.size == read_header(io.BytesIO(content))[1::-1]
    return np.asarray(image)


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


@pytest.mark.parametrize("image", [ramp(), ramp("L"), ramp("LA"), Image.fromarray(RAMP[..., 0].astype(np.uint16))])
@pytest.mark.parametrize(("orientation", "turned"), [(3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_270)])
def test_a_rotation_noted_in_exif_is_applied(image, orientation, turned):
    image, exif = image.crop((0, 0, 16, 9)), Image.Exif()
    exif[0x0112] = orientation
    upright = seen(encoded(image.transpose(turned)))
    np.testing.assert_array_equal(seen(encoded(image, exif=exif)), upright)


def test_a_colour_profile_changes_nothing():
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    np.testing.assert_array_equal(seen(encoded(ramp(), icc_profile=profile)), RAMP)


@pytest.mark.parametrize("size", [(8, 8), (8, 160), (640, 33)])
def test_any_size_and_shape_that_is_not_degenerate_is_taken(size):
    assert scorable(encoded(Image.new("RGB", size))).size == size


@pytest.mark.parametrize("size", [(7, 64), (64, 1), (8, 161), (1000, 49)])
def test_degenerate_sizes_are_not_scored_but_decoded(size):
    content = encoded(Image.new("RGB", size))
    assert decoded(content).size == size
    with pytest.raises(ImageError, match=f"is {size[0]} x {size[1]} pixels; sides must have at least 8"):
        scorable(content)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_several_frames_are_refused(kind):
    frames = [Image.new("RGB", (16, 16), (shade, 0, 0)) for shade in (0, 120, 240)]
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    for read in (decoded, lambda content: read_header(io.BytesIO(content))):
        with pytest.raises(ImageError, match="has 3 frames; give one of them") as told:
            read(content)
        assert told.value.fault == "several frames"


def test_the_first_picture_of_a_photograph_with_previews_is_taken():
    content = encoded(
        ramp(), "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))], quality=100, subsampling=0
    )
    np.testing.assert_array_equal(seen(content), seen(encoded(ramp(), "JPEG", quality=100, subsampling=0)))


def test_transparent_pixels_are_laid_on_white():
    clear = ramp("RGBA")
    clear.putpixel((3, 4), (255, 0, 0, 0))
    clear.putpixel((4, 4), (255, 0, 0, 51))
    expected = RAMP.copy()
    expected[4, 3:5] = (255, 255, 255), (255, 204, 204)
    np.testing.assert_array_equal(seen(encoded(clear)), expected)


@pytest.mark.parametrize(
    "image",
    [ramp(), ramp("L"), ramp("L").convert("P"), Image.fromarray(RAMP[..., 0].astype(np.uint16) * 257)],
    ids=["RGB", "L", "P", "I;16"],
)
def test_one_transparent_colour_is_laid_on_white(image):
    content = encoded(image, transparency=image.getpixel((3, 4)))
    expected = RAMP.copy()
    expected[4, 3] = 255
    np.testing.assert_array_equal(seen(content), expected)
    assert read_header(io.BytesIO(content)).converted


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK", "1"])
def test_ordinary_pictures_are_not_converted(mode):
    content = encoded(ramp(mode), "TIFF")
    assert not read_header(io.BytesIO(content)).converted


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_truncated_files_are_refused(kind, share):
    detail = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    content = encoded(detail, kind)
    with pytest.raises(ImageError, match="is damaged"):
        decoded(content[: int(share * len(content))])


def test_cie_lab_is_refused():
    with pytest.raises(ImageError, match="has CIE LAB colours; save it in RGB"):
        decoded(encoded(Image.new("LAB", (16, 16)), "TIFF"))


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


@pytest.mark.parametrize("read", [decoded, lambda content: read_header(io.BytesIO(content))])
def test_a_picture_with_too_many_pixels_is_refused_as_that(read, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageError, match=r"^has more than 200 pixels; make it smaller$") as told:
        read(encoded(ramp()))
    assert told.value.fault == "too many pixels"


def test_a_png_with_long_texts_is_read_up_to_a_limit(monkeypatch):
    texts = PngImagePlugin.PngInfo()
    texts.add_text("workflow", "x" * 3_000_000, zip=True)
    content = encoded(ramp(), pnginfo=texts)
    np.testing.assert_array_equal(seen(content), RAMP)
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_CHUNK", 2**20)
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_MEMORY", 2**20)
    with pytest.raises(ImageError, match=r"^holds more than 1 MiB of text; remove the text$") as told:
        decoded(content)
    assert told.value.fault == "too much text in the file"


def test_every_suffix_that_folders_are_searched_for_has_a_decoder():
    Image.init()
    assert {suffix for suffix in SUFFIXES if Image.registered_extensions()[suffix] not in Image.OPEN} == set()


def test_an_error_keeps_its_fault_on_its_way_from_another_process():
    error = pickle.loads(pickle.dumps(ImageError("is odd", "several frames")))
    assert (str(error), error.fault) == ("is odd", "several frames")


def test_the_file_is_named(tmp_path):
    (tmp_path / "cut.png").write_bytes(encoded(ramp())[:40])
    with pytest.raises(ImageError, match=r"cut.png is damaged"):
        opened(tmp_path / "cut.png")
    with pytest.raises(ImageError, match=r"none.png cannot be read \(No such file"):
        opened(tmp_path / "none.png")
    with pytest.raises(ImageError, match=r"^the picture is 1 x 1 pixels"):
        opened(Image.new("RGB", (1, 1)))
