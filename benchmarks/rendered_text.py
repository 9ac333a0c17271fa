"""How well rendered text is read: the figures of docs/evaluators/ocr.md.

    python -m benchmarks.rendered_text                # a minute on one thread
    python -m benchmarks.rendered_text --images 100

Each picture shows the text that one of `prompts=text_rendering` asks for, in the font that ships with PIL. The same
texts are drawn in each way.
"""

import argparse
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from alignbench.data.prompts import text_rendering
from evaluators.ocr import FORMULAS, read

WIDEST = 0.85  # of the picture, that a line of text takes
NUM_RINGS = 40  # of a cluttered background


@dataclass(frozen=True)
class Drawing:
    """How text is drawn.

    Attributes:
        size: side of the picture, pixels.
        letters: size of the font, pixels.
        cluttered: whether the background is coloured and has rings on it; white otherwise.
        angle: by which the text is turned to the left, degrees.
        num_times: how often the text is there, one below the other.
    """

    size: int = 512
    letters: int = 48
    cluttered: bool = False
    angle: float = 0.0
    num_times: int = 1

    def picture(self, text: str, rng: np.random.Generator) -> Image.Image:
        """Draw a text, black, in as many lines as it needs."""
        font = ImageFont.load_default(self.letters)
        block = "\n\n".join(["\n".join(_lines(text, font, WIDEST * self.size))] * self.num_times)
        mask = Image.new("L", (self.size, self.size), 0)
        centre = (self.size / 2, self.size / 2)
        ImageDraw.Draw(mask).multiline_text(centre, block, fill=255, font=font, anchor="mm", align="center")
        ground = _clutter(self.size, rng) if self.cluttered else Image.new("RGB", mask.size, "white")
        ground.paste("black", mask=mask.rotate(self.angle, Image.Resampling.BICUBIC))
        return ground


DRAWINGS = {
    "plain, 512 pixels": Drawing(),
    "cluttered background": Drawing(cluttered=True),
    "small letters, 20 pixels": Drawing(letters=20),
    "1024 pixels": Drawing(size=1024),
    "text twice": Drawing(num_times=2),
    "turned by 15 degrees": Drawing(angle=15),
    "turned by 90 degrees": Drawing(angle=90),
    "upside down": Drawing(angle=180),
}


def _lines(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Break a text into lines of at most a width, if its words allow it."""
    first, *others = text.split()
    lines = [first]
    for word in others:
        if font.getlength(longer := f"{lines[-1]} {word}") <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _clutter(size: int, rng: np.random.Generator) -> Image.Image:
    """Draw light patches of colour and rings."""
    patches = rng.integers(90, 256, (16, 16, 3), np.uint8)
    ground = Image.fromarray(patches).resize((size, size), Image.Resampling.BICUBIC)
    for _ in range(NUM_RINGS):
        x, y, radius = (*rng.integers(0, size, 2).tolist(), int(rng.integers(5, 60)))
        colour = tuple(rng.integers(60, 256, 3).tolist())
        ImageDraw.Draw(ground).ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour, width=3)
    return ground


def measure(drawing: Drawing, targets: Sequence[str]) -> dict[str, float]:
    """Return the mean of each score, and the seconds of processor time that an image takes."""
    pictures = [drawing.picture(target, np.random.default_rng(number)) for number, target in enumerate(targets)]
    start = time.process_time()
    texts = ["".join(line.text for line in read(picture)) for picture in pictures]
    seconds = (time.process_time() - start) / len(targets)
    pairs = list(zip(texts, targets, strict=True))
    scores = {name: float(np.mean([formula(*pair) for pair in pairs])) for name, formula in FORMULAS.items()}
    return {**scores, "seconds": seconds}


def main() -> None:
    """Print a row for each way of drawing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20, help="of each kind")
    num_images = parser.parse_args().images
    targets = [prompt.split('"')[1] for prompt in text_rendering("text_rendering", None).texts]
    chosen = random.Random(0).sample([target for target in targets if target.isascii()], num_images)
    measure(Drawing(), ["warm up"])  # loads the reader
    print("| pictures | reward | exact | similarity | seconds |\n|---|---|---|---|---|")
    for name, drawing in DRAWINGS.items():
        found = measure(drawing, chosen)
        print(f"| {name} | {' | '.join(f'{value:.2f}' for value in found.values())} |", flush=True)


if __name__ == "__main__":
    main()
