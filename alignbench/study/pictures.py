"""Images as raters get them: nothing in their bytes tells who made them.

Every image is decoded and encoded anew from its bare pixels, so text, profiles and times of the file are gone. The
images of one prompt get one size: where runs differ, the smallest width and height, each image fitted into it on grey.
"""

from functools import lru_cache

import numpy as np
from PIL import Image

from alignbench.images import opened, read_header
from alignbench.study.plan import ShownImage
from alignbench.text import keyed
from alignbench.votes.record import StudyFolder

GREY = (127, 127, 127)
CACHED = 64  # encoded images kept


class BlindPictures:
    """The images of a study."""

    def __init__(self, folder: StudyFolder) -> None:
        self._folder = folder
        self.png = lru_cache(CACHED)(self._png)

    def _png(self, prompt_id: str, shown: ShownImage) -> bytes:
        """Return an image as a PNG file."""
        from io import BytesIO

        image = _fitted(self._rgb(shown.run, prompt_id), self._size(prompt_id))
        if shown.damaged:
            seed = int.from_bytes(keyed(self._folder.study.seed, "damage", prompt_id)[:8])
            image = damaged(image, seed)
        file = BytesIO()
        # from the bytes, as an image that PIL opened brings its metadata along
        Image.frombytes("RGB", image.size, image.tobytes()).save(file, "PNG", compress_level=3)
        return file.getvalue()

    def _rgb(self, run: str, prompt_id: str) -> Image.Image:
        return opened(self._folder.image(run, prompt_id))

    def _size(self, prompt_id: str) -> tuple[int, int]:
        headers = []
        for run in self._folder.study.runs:
            with self._folder.image(run, prompt_id).open("rb") as file:
                headers.append(read_header(file))
        return min(header.width for header in headers), min(header.height for header in headers)


def _fitted(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    if image.size == size:
        return image
    scale = min(size[0] / image.width, size[1] / image.height)
    inner = image.resize(
        (max(round(image.width * scale), 1), max(round(image.height * scale), 1)), Image.Resampling.LANCZOS
    )
    canvas = Image.new("RGB", size, GREY)
    canvas.paste(inner, ((size[0] - inner.width) // 2, (size[1] - inner.height) // 2))
    return canvas


def damaged(image: Image.Image, seed: int) -> Image.Image:
    """Return an RGB image with half of its pixels in random colours."""
    rng = np.random.default_rng(seed)
    pixels = np.array(image)
    hit = rng.random(pixels.shape[:2]) < 0.5
    pixels[hit] = rng.integers(0, 256, (int(hit.sum()), 3), dtype=np.uint8)
    return Image.fromarray(pixels)
