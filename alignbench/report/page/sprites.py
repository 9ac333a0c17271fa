"""Draw the thumbnails of many images into one picture each, so that a page of thousands stays quick."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from tqdm.auto import tqdm

from alignbench.files import replacing
from alignbench.images import ImageError, read_picture
from alignbench.report.page.store import Store
from alignbench.report.pictures import fitted

TILE = 128  # pixels a side
COLUMNS, ROWS = 8, 4  # tiles of a sprite
QUALITY = 82  # of JPEG
BACKGROUND = (128, 128, 128)  # beside images that are not square


@dataclass(frozen=True)
class ThumbnailSource:
    """An image file that is on the disk.

    Attributes:
        digest: of its content, as it was scored.
    """

    path: Path
    digest: str


Jobs = dict[str, Sequence[ThumbnailSource | None]]  # sprites to draw, by name


def sprite_names(store: Store, pictures: Sequence[ThumbnailSource | None], jobs: Jobs) -> list[str | None]:
    """Name the sprites of these images, `COLUMNS` times `ROWS` each, and note in `jobs` those that are yet to be drawn.

    Args:
        pictures: None where there is no image.

    Returns:
        Names relative to the results root; None where a sprite would be empty.
    """
    names: list[str | None] = []
    for start in range(0, len(pictures), COLUMNS * ROWS):
        part = pictures[start : start + COLUMNS * ROWS]
        if not any(part):
            names.append(None)
            continue
        name = store.thumbnails([TILE, COLUMNS, QUALITY, [picture and picture.digest for picture in part]])
        if not store.holds(name):
            jobs[name] = part
        names.append(name)
    return names


def draw_all(store: Store, jobs: Jobs) -> None:
    """Write the sprites that are noted, several at a time."""
    if not jobs:
        return  # without an empty bar
    num_images = sum(picture is not None for part in jobs.values() for picture in part)
    # the largest share of the time is spent unpacking PNG, which lets other threads work
    with ThreadPoolExecutor() as pool, tqdm(total=num_images, desc="thumbnails", unit="image", disable=None) as bar:
        for drawn in pool.map(lambda job: _write(store.root / job[0], job[1]), jobs.items()):
            bar.update(drawn)


def _write(path: Path, pictures: Sequence[ThumbnailSource | None]) -> int:
    try:
        sheet = draw(pictures)
    except ImageError as error:  # damaged since it was scored, and nothing on the disk tells the time: drawn next time
        tqdm.write(f"  thumbnails  {error}; put the right file back, or delete it and make it again")
        return 0
    with replacing(path) as temporary:
        sheet.save(temporary, format="JPEG", quality=QUALITY)
    return sum(picture is not None for picture in pictures)


def draw(pictures: Sequence[ThumbnailSource | None]) -> Image.Image:
    """Return the thumbnails of some images, row by row."""
    rows = -(-len(pictures) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * TILE, rows * TILE), BACKGROUND)
    for index, picture in enumerate(pictures):
        if picture is not None:
            row, column = divmod(index, COLUMNS)
            tile = fitted(read_picture(picture.path), TILE)
            left, top = (TILE - tile.width) // 2, (TILE - tile.height) // 2
            sheet.paste(tile, (column * TILE + left, row * TILE + top))
    return sheet
