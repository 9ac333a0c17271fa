"""Pictures as evaluators get them: which are taken as they are, and which have no score that means anything.

Scored: RGB, grey, palette, CMYK (turned into RGB as PIL does, without colour profiles), 16 bits a channel (scaled to
8), an alpha channel that is opaque everywhere (left out), any size and shape that is not degenerate; a rotation noted
in EXIF is not applied. All this is what the published scorers do, or what keeps them from failing.

Refused: files that are damaged, truncated or no picture; several frames; transparent pixels, behind which no
publication says what lies; sides under 8 pixels, or 20 times as long as wide, which the scorers would cut to nearly
nothing; 32 bits a channel, whose range nothing says.
"""

import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from alignbench.errors import UserError

MIN_SIDE = 8
MAX_ASPECT = 20
# What PIL raises of damaged files: a broken PNG chunk is a SyntaxError, a TIFF without size a TypeError, an unknown DDS
# a NotImplementedError.
DAMAGE = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, NotImplementedError, struct.error,
    Image.DecompressionBombError,
)  # fmt: skip


class ImageError(UserError):
    """A picture that cannot be scored."""


def opened(image: Image.Image | str | Path) -> Image.Image:
    """Return the picture, read from its file if need be, if it can be scored.

    Raises:
        ImageError: it cannot; the message names the file.
    """
    try:
        if isinstance(image, Image.Image):
            return accepted(image)
        return decoded(Path(image).read_bytes())
    except ImageError as error:
        raise ImageError(f"{'the picture' if isinstance(image, Image.Image) else image} {error}") from None
    except OSError as error:
        raise ImageError(f"{image} cannot be read ({error.strerror})") from None


def decoded(content: bytes) -> Image.Image:
    """Return the picture that a file holds, in its own mode, if it can be scored.

    Raises:
        ImageError: it cannot; the message is the end of a sentence that begins with the name of the file.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            return accepted(image)
    except ImageError:
        raise
    except UnidentifiedImageError:  # its message shows an address in memory
        raise ImageError("is damaged (it holds no picture)") from None
    except DAMAGE as error:
        raise ImageError(f"is damaged ({' '.join(str(error).split())})") from None


def accepted(image: Image.Image) -> Image.Image:
    """Return the picture if it can be scored.

    Raises:
        ImageError: it cannot; the message is the end of a sentence that begins with the name of the picture.
    """
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise ImageError(f"has {frames} frames; give the one that is to be scored")
    short, long = sorted(image.size)
    if short < MIN_SIDE or long > MAX_ASPECT * short:
        raise ImageError(
            f"is {image.width} x {image.height} pixels; sides must have at least {MIN_SIDE}, and the longer at most "
            f"{MAX_ASPECT} times the shorter"
        )
    if image.mode == "F" or (image.mode == "I" and not _fits_16_bits(image)):
        raise ImageError("has 32 bits a channel, whose range nothing says; save it with 8 or 16")
    if image.has_transparency_data and _alpha_floor(image) < 255:
        raise ImageError("has transparent pixels; lay it over the background it is meant to have")
    return image


def rgb(image: Image.Image) -> Image.Image:
    """Return the picture in RGB; 16 bits become 8 by scaling, where PIL would cut them off."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
    return image.convert("RGB")


def _fits_16_bits(image: Image.Image) -> bool:
    """Say whether all values of a grey picture lie within 0..65535; PIL opens some of 16 bits with 32."""
    low, high = image.getextrema()
    return low >= 0 and high < 2**16  # pyright: ignore[reportOperatorIssue]


def _alpha_floor(image: Image.Image) -> int:
    """Return the smallest opacity of any pixel, 0..255."""
    low, _ = image.convert("RGBA").getchannel("A").getextrema()
    return int(low)  # pyright: ignore[reportArgumentType]
