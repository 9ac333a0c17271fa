"""The small pictures of a capsule: one for each image that was scored, a JPEG of at most 128 pixels a side."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from alignbench.errors import UserError
from alignbench.images import ImageError, damage_as_error, decoded
from alignbench.report.contenders import Measurement
from alignbench.report.image_measures.taken import Taken
from alignbench.report.readable import by_images
from alignbench.store.image_statistics_table import ImageToMeasure
from alignbench.store.run_folder import RunFolder
from alignbench.store.scores import digest_of_content
from alignbench.videos import still

SIDE = 128  # pixels
QUALITY = 85  # of JPEG
WITHOUT_COLOUR_LOSS = 0  # JPEG keeps the colours of every pixel


def scored_images(run: RunFolder, measured: Sequence[Measurement]) -> list[ImageToMeasure]:
    """Return the files of all images of a run that were scored, with their digests then, in the order of the digests.

    Args:
        measured: all scores of the run.
    """
    found = (one for entries in by_images(measured) for one in Taken(run, tuple(entries)).shown.values())
    return list({one.digest: one for one in sorted(found, key=lambda one: one.digest) if one.digest}.values())


def thumbnail_of(run: RunFolder, shown: ImageToMeasure) -> bytes | None:
    """Return the thumbnail of an image of a run; None where the image is gone.

    Raises:
        UserError: the image is not what was scored.
    """
    path = Path(shown.path)
    if not path.exists():
        kept = run.thumbnail(shown.digest)
        return kept.read_bytes() if kept.exists() else None
    content = path.read_bytes()
    if digest_of_content(content) != shown.digest:
        raise UserError(f"{path} has changed since it was scored; add score to stages to score it again")
    return encoded(still(content))


def encoded(image: Image.Image) -> bytes:
    """Return the thumbnail of an image or of the middle frame of a video; one that is small already keeps its size."""
    small, file = image.copy(), io.BytesIO()
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0)
    small.save(file, format="JPEG", quality=QUALITY, subsampling=WITHOUT_COLOUR_LOSS)
    return file.getvalue()


def difference(one: bytes, other: bytes) -> float:
    """Return the mean difference of two thumbnails in levels, 0 to 255; 255 where they differ in size."""
    first, second = (np.asarray(decoded(each), np.float32) for each in (one, other))
    return float(np.abs(first - second).mean()) if first.shape == second.shape else 255.0


def check_thumbnail(file: Path) -> None:
    """Refuse a file that is no thumbnail.

    Raises:
        UserError: it is no JPEG, too large, or damaged.
    """
    try:
        with damage_as_error(), Image.open(file, formats=["JPEG"]) as image:
            if max(image.size) > SIDE:
                raise ImageError(f"has {image.width} x {image.height} pixels, expected at most {SIDE}")
        decoded(file.read_bytes())
    except ImageError as error:
        raise UserError(f"{file} {error}") from None
