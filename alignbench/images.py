"""The one decoder of picture files: training, evaluators, reports and studies see the same pixels of a file.

Every picture becomes RGB with 8 bits a channel: grey, palette and CMYK as PIL converts them, without colour profiles;
16 bits a channel scaled to 8; rotated as EXIF says; transparent pixels laid on white, an opaque alpha channel removed.

Refused: files that are damaged, truncated or no picture; several frames, except those of a photograph (MPO), whose
first is the picture; 32 bits a channel, whose range nothing says; CIE LAB, which needs a colour profile; more pixels
than PIL opens. Evaluators also refuse sides under 8 pixels, or 20 times as long as wide, which they would cut to nearly
nothing.
"""

import hashlib
import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from PIL import ExifTags, Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from alignbench.errors import UserError

# What folders of pictures are searched for: the formats of single pictures that PIL reads without another program.
SUFFIXES = (
    ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".qoi",
    ".tga", ".tif", ".tiff", ".webp",
)  # fmt: skip
MIN_SIDE = 8
MAX_ASPECT = 20
TAIL = 4096  # the end mark must be in the last bytes of a file; some programs write further bytes after it
ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
SIDEWAYS = range(5, 9)  # values of EXIF's orientation that swap width and height
# What PIL raises of damaged files: a broken PNG chunk is a SyntaxError, a TIFF without size a TypeError, an unknown DDS
# a NotImplementedError, a broken AVIF a RuntimeError.
DAMAGE = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, RuntimeError, struct.error,
)  # fmt: skip
# Programs store whole workflows in a PNG. One compressed text may be as long as PIL lets all texts together be: 64 MiB.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY

# Why a picture is refused, in the words that count pictures.
UNREADABLE = "unreadable image"
TOO_LARGE = "too many pixels"
LONG_TEXT = "too much text in the file"
SEVERAL_FRAMES = "several frames"
DEEP = "32 bits a channel"
LAB = "CIE LAB colours"
SHAPE = "too small or too narrow"  # for evaluators
FAULTS = (UNREADABLE, TOO_LARGE, LONG_TEXT, SEVERAL_FRAMES, DEEP, LAB)  # for training


class ImageError(UserError):
    """A picture that is refused.

    Attributes:
        fault: the reason, one of the constants above.
    """

    def __init__(self, message: str, fault: str = UNREADABLE) -> None:
        super().__init__(message)
        self.fault = fault


class Header(NamedTuple):
    """What is known of a picture before it is decoded.

    Attributes:
        height, width: in pixels, after EXIF rotation.
        converted: whether transparency or 16 bits of grey are converted. Version 0.1.0 trained on other pixels of
            such pictures.
    """

    height: int
    width: int
    converted: bool


def opened(image: Image.Image | str | Path) -> Image.Image:
    """Return a picture, or the picture in a file, in RGB, if it can be scored.

    Raises:
        ImageError: it cannot; the message names the file.
    """
    if isinstance(image, Image.Image):
        with _named("the picture"), damage_as_error():
            return with_usable_shape(rgb(image))
    with _named(image):
        return scorable(_content(image))


def read_picture(file: str | Path) -> Image.Image:
    """Return the picture in a file in RGB, of any shape.

    Raises:
        ImageError: the file is refused; the message names it.
    """
    with _named(file):
        return decoded(_content(file))


def scorable(content: bytes) -> Image.Image:
    """Return the picture that a file holds in RGB, if it can be scored.

    Raises:
        ImageError: it cannot; the message is the end of a sentence that begins with the name of the file.
    """
    return with_usable_shape(decoded(content))


def decoded(content: bytes) -> Image.Image:
    """Return the picture that a file holds in RGB, of any shape.

    Raises:
        ImageError: the file is refused; the message is the end of a sentence that begins with the name of the file.
    """
    with damage_as_error(), Image.open(io.BytesIO(content)) as image:
        return rgb(image)


def read_header(file: BinaryIO) -> Header:
    """Return what the beginning and the end of a file say about its picture.

    The picture is not decoded, so damage in the middle is not found. Truncated JPEG and PNG files are found, because
    their end mark is missing. The EXIF data of a PNG are not found if they follow its pixels.

    Raises:
        ImageError: the file is refused, as by `decoded`.
    """
    with damage_as_error(), Image.open(file) as image:
        _refuse_several_frames(image)
        _refuse_unreadable_kinds(image)
        # the own method of PNG images decodes them
        sideways = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1) in SIDEWAYS
        (width, height), end = image.size, ENDS.get(image.format or "", b"")
        converted = image.has_transparency_data or image.mode.startswith("I")
    num_bytes = file.seek(0, io.SEEK_END)
    file.seek(max(0, num_bytes - TAIL))
    if end not in file.read():
        raise ImageError("is damaged (its end is missing)")
    return Header(width, height, converted) if sideways else Header(height, width, converted)


def picture_digest(picture: Image.Image) -> str:
    """Return the digest of the size and the pixels of an RGB picture, 64 hexadecimal digits."""
    return hashlib.sha256(f"{picture.width} x {picture.height}\0".encode() + picture.tobytes()).hexdigest()


def rgb(image: Image.Image) -> Image.Image:
    """Return a picture of any mode in RGB, upright, transparent pixels laid on white.

    Raises:
        ImageError: the picture is refused; the message is the end of a sentence that begins with its name.
    """
    _refuse_several_frames(image)
    return rgb_frame(image)


def rgb_frame(image: Image.Image) -> Image.Image:
    """Return the same of the frame that a picture of several frames is at.

    Raises:
        ImageError: as `rgb`, but for the number of frames.
    """
    _refuse_unreadable_kinds(image)
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):
        upright = _eight_bits(upright)
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    white = Image.new("RGBA", upright.size, "white")
    white.alpha_composite(upright.convert("RGBA"))
    return white.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return a grey picture of 16 bits as one of 8, with an alpha channel if one of its greys is transparent."""
    import numpy as np  # which commands that see no image need not wait for

    values = np.asarray(image)  # [H, W], 0..65535
    grey = Image.fromarray((values / 257).round().astype(np.uint8))
    if "transparency" in image.info:
        grey.putalpha(Image.fromarray(np.where(values == image.info["transparency"], 0, 255).astype(np.uint8)))
    return grey


def _refuse_several_frames(image: Image.Image) -> None:
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise ImageError(f"has {frames} frames; give one of them", SEVERAL_FRAMES)


def _refuse_unreadable_kinds(image: Image.Image) -> None:
    """Refuse pictures whose pixels cannot be told.

    Raises:
        ImageError: the message is the end of a sentence that begins with the name of the picture.
    """
    if image.mode == "F" or (image.mode == "I" and not _fits_16_bits(image)):
        raise ImageError("has 32 bits a channel, whose range is not known; save it with 8 or 16", DEEP)
    if image.mode == "LAB":
        raise ImageError("has CIE LAB colours; save it in RGB", LAB)


def _fits_16_bits(image: Image.Image) -> bool:
    """Say whether all values of a grey picture lie within 0..65535; PIL opens some of 16 bits with 32."""
    low, high = image.getextrema()
    return low >= 0 and high < 2**16  # pyright: ignore[reportOperatorIssue]


def with_usable_shape(image: Image.Image) -> Image.Image:
    """Return a picture that can be scored.

    Raises:
        ImageError: it is too small or too narrow; the message is the end of a sentence that begins with its name.
    """
    short, long = sorted(image.size)
    if short < MIN_SIDE or long > MAX_ASPECT * short:
        raise ImageError(
            f"is {image.width} x {image.height} pixels; sides must have at least {MIN_SIDE}, and the longer at most "
            f"{MAX_ASPECT} times the shorter",
            SHAPE,
        )
    return image


def _content(file: str | Path) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise ImageError(f"cannot be read ({error.strerror})") from None


@contextmanager
def _named(name: str | Path) -> Iterator[None]:
    """Begin the message of an `ImageError` with the name of the picture."""
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{name} {error}", error.fault) from None


@contextmanager
def damage_as_error() -> Iterator[None]:
    """Raise what PIL raises of a file as an `ImageError` that says what is wrong with it."""
    try:
        yield
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError(
            f"has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels; make it smaller", TOO_LARGE
        ) from None
    except UnidentifiedImageError:  # its message shows an address in memory
        raise ImageError("is damaged or in a format that cannot be read") from None
    except DAMAGE as error:
        if "MAX_TEXT" in str(error):
            limit = PngImagePlugin.MAX_TEXT_MEMORY // 2**20
            raise ImageError(f"holds more than {limit} MiB of text; remove the text", LONG_TEXT) from None
        raise ImageError(f"is damaged ({' '.join(str(error).split())})") from None
