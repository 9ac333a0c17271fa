"""Draw the thumbnails of many images into one picture each, so that a page of thousands stays quick.

Thumbnails of videos are animated, and so is their picture.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from tqdm.auto import tqdm

from alignbench.files import replacing
from alignbench.images import ImageError
from alignbench.report.page.store import Store
from alignbench.report.pictures import fitted
from alignbench.videos import FrameSpec, read_frames, read_still

TILE = 128  # pixels a side
COLUMNS, ROWS = 8, 4  # tiles of a sprite
QUALITY = 82  # of JPEG
SHOWN = FrameSpec(16, 8.0)  # the first two seconds of a video
ANIMATED_QUALITY = 60  # of WebP: about 1 MB for the thumbnails of 32 videos
BACKGROUND = (128, 128, 128)  # beside images that are not square


@dataclass(frozen=True)
class ThumbnailSource:
    """An image file that is on the disk.

    Attributes:
        digest: of its content, as it was scored.
        frames: of a video; None for an image.
    """

    path: Path
    digest: str
    frames: FrameSpec | None = None


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
        digests = [picture and picture.digest for picture in part]
        if any(picture is not None and picture.frames is not None for picture in part):
            name = store.thumbnails([TILE, COLUMNS, ANIMATED_QUALITY, SHOWN.name, digests], "webp")
        else:
            name = store.thumbnails([TILE, COLUMNS, QUALITY, digests])
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
        sheets = [draw(pictures)] if path.suffix == ".jpg" else draw_frames(pictures)
    except ImageError as error:  # damaged since it was scored, and nothing on the disk tells the time: drawn next time
        tqdm.write(f"  thumbnails  {error}; put the right file back, or delete it and make it again")
        return 0
    with replacing(path) as temporary:
        if path.suffix == ".jpg":
            sheets[0].save(temporary, format="JPEG", quality=QUALITY)
        else:
            sheets[0].save(
                temporary,
                format="WEBP",
                save_all=True,
                append_images=sheets[1:],
                duration=round(1000 / SHOWN.fps),
                loop=0,
                quality=ANIMATED_QUALITY,
                method=0,
            )
    return sum(picture is not None for picture in pictures)


def draw(pictures: Sequence[ThumbnailSource | None]) -> Image.Image:
    """Return the thumbnails of some images, row by row."""
    return _sheet([picture and fitted(read_still(picture.path), TILE) for picture in pictures])


def draw_frames(pictures: Sequence[ThumbnailSource | None]) -> list[Image.Image]:
    """Return the thumbnails of some videos, row by row, once for each frame of `SHOWN`; a short video begins anew."""
    tiles = [picture and _tiles(picture) for picture in pictures]
    num_frames = max(len(frames) for frames in tiles if frames)
    return [
        _sheet([frames[number % len(frames)] if frames else None for frames in tiles]) for number in range(num_frames)
    ]


def _tiles(video: ThumbnailSource) -> list[Image.Image]:
    frames = read_frames(video.path.read_bytes(), video.frames)
    fps = SHOWN.fps if video.frames is None else video.frames.fps
    return [fitted(frame, TILE) for frame in SHOWN.choose(((n + 1) / fps, frame) for n, frame in enumerate(frames))]


def _sheet(tiles: Sequence[Image.Image | None]) -> Image.Image:
    """Return tiles row by row, each in the middle of its place."""
    rows = -(-len(tiles) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * TILE, rows * TILE), BACKGROUND)
    for index, tile in enumerate(tiles):
        if tile is not None:
            row, column = divmod(index, COLUMNS)
            left, top = (TILE - tile.width) // 2, (TILE - tile.height) // 2
            sheet.paste(tile, (column * TILE + left, row * TILE + top))
    return sheet
