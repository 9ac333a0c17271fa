"""The images and prompts on which builds are compared: of several sizes and modes, and the same on every machine."""

from pathlib import Path

import numpy as np
from PIL import Image

# size, mode and prompt of each; widths and heights that leave an even rest around the centre
SAMPLES = (
    ((512, 512), "RGB", "a photo of a cat"),
    ((640, 480), "RGB", "Two astronauts ride one horse, on the moon; oil painting, 4k!"),
    ((300, 451), "RGB", ""),
    ((512, 512), "RGBA", "Ein Café in Zürich, \u201cnaïve\u201d style \u2014 東京"),
    ((96, 96), "RGB", "[PAD] [ENC] cat"),
    ((1024, 1024), "RGB", "a very long prompt " + "with many words that nobody will ever read to its end, " * 6),
)


def write_samples(folder: Path) -> tuple[list[str], list[str]]:
    """Write the images as PNG and return their names and their prompts, one a name."""
    names = [f"{number}.png" for number in range(len(SAMPLES))]
    for number, name in enumerate(names):
        size, mode, _ = SAMPLES[number]
        picture(size, mode, seed=number).save(folder / name)
    return names, [prompt for _, _, prompt in SAMPLES]


def picture(size: tuple[int, int], mode: str, seed: int) -> Image.Image:
    """Return coloured blocks under fine noise; whole-number arithmetic alone, so that every machine draws the same."""
    random = np.random.RandomState(seed)  # frozen for good
    width, height = size
    blocks = random.randint(0, 256, (8, 8, 3))
    rows, columns = np.arange(height) * 8 // height, np.arange(width) * 8 // width
    noise = random.randint(-24, 25, (height, width, 3))
    pixels = np.clip(blocks[rows[:, None], columns] + noise, 0, 255).astype(np.uint8)
    # opaque: the published code resizes colours weighted by their opacity
    return Image.fromarray(pixels).convert(mode)
