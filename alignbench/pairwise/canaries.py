"""Pairs of drawn images with which a comparer is asked whether it still answers as before.

A server can put another model behind a name. Four pairs are clear: one image fits the prompt and the other does not, so
no rounding turns the answer. In the other four the images differ little, so that the log-odds of two models differ.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from alignbench.pairwise.comparer import Verdict

SIDE = 256  # pixels
SURE = 5.0  # log-odds beyond which answers are alike: one at 150 to 1 is as good as one at a million to 1
TOLERANCE = 1.0  # by how much log-odds of one model may differ, as batches and rounding change them

COLOURS = {
    "white": (255, 255, 255), "black": (20, 20, 20), "red": (220, 30, 30), "green": (30, 150, 60),
    "blue": (40, 70, 220), "yellow": (245, 210, 40),
}  # fmt: skip
Drawing = Sequence[tuple[str, str, int, int, int]]  # shape, colour, centre x and y, half its side; pixels


@dataclass(frozen=True)
class Canary:
    """Two images of one prompt, in the order in which they are shown.

    Attributes:
        is_clear: whether one image fits the prompt and the other does not.
    """

    prompt: str
    first: Image.Image
    second: Image.Image
    is_clear: bool


SHAPES: dict[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {  # of whole numbers, so equal everywhere
    "circle": lambda x, y, r: x * x + y * y <= r * r,
    "square": lambda x, y, r: (abs(x) <= r) & (abs(y) <= r),
    "triangle": lambda x, y, r: (abs(y) <= r) & (2 * abs(x) <= y + r),
}
PAIRS: tuple[tuple[str, Drawing, Drawing, bool], ...] = (
    ("a red circle", [("circle", "red", 128, 128, 80)], [("square", "blue", 128, 128, 70)], True),
    (
        "three green triangles",
        [("triangle", "green", 128, 128, 50)],
        [("triangle", "green", x, 128, 35) for x in (50, 128, 206)],
        True,
    ),
    (
        "a yellow square above a black circle",
        [("square", "yellow", 128, 70, 45), ("circle", "black", 128, 186, 45)],
        [("circle", "black", 128, 70, 45), ("square", "yellow", 128, 186, 45)],
        True,
    ),
    (
        "a blue circle left of a red circle",
        [("circle", "red", 70, 128, 45), ("circle", "blue", 186, 128, 45)],
        [("circle", "blue", 70, 128, 45), ("circle", "red", 186, 128, 45)],
        True,
    ),
    ("a large black square", [("square", "black", 128, 128, 92)], [("square", "black", 128, 128, 84)], False),
    (
        "two red squares of the same size",
        [("square", "red", 70, 128, 44), ("square", "red", 186, 128, 38)],
        [("square", "red", 70, 128, 42), ("square", "red", 186, 128, 40)],
        False,
    ),
    (
        "a blue triangle in the centre",
        [("triangle", "blue", 134, 128, 60)],
        [("triangle", "blue", 112, 120, 60)],
        False,
    ),
    (
        "a green circle and a yellow circle",
        [("circle", "green", 80, 100, 50), ("circle", "yellow", 176, 156, 50)],
        [("circle", "yellow", 80, 156, 50), ("circle", "green", 176, 100, 50)],
        False,
    ),
)  # fmt: skip


@cache
def canaries() -> tuple[Canary, ...]:
    """Return the pairs in their order."""
    return tuple(Canary(prompt, _drawn(first), _drawn(second), is_clear) for prompt, first, second, is_clear in PAIRS)


@cache
def pairs_digest() -> str:
    """Return the digest of all that is shown; answers to other pairs are not compared."""
    content = hashlib.sha256()
    for one in canaries():
        content.update(b"\0".join([one.prompt.encode(), one.first.tobytes(), one.second.tobytes()]))
    return content.hexdigest()[:16]


def other_answers(before: Sequence[Verdict], now: Sequence[Verdict]) -> list[Canary]:
    """Return the pairs that one model would not answer in both ways.

    Log-odds may differ by 1; a word, or none, is compared where the pair is clear.
    """
    compared = zip(canaries(), before, now, strict=True)
    return [canary for canary, then, verdict in compared if _differ(canary, then, verdict)]


def _differ(canary: Canary, before: Verdict, now: Verdict) -> bool:
    if before.log_odds is None or now.log_odds is None:
        return canary.is_clear and before.won != now.won
    then, at_present = (min(max(one, -SURE), SURE) for one in (before.log_odds, now.log_odds))
    return abs(then - at_present) > TOLERANCE


def _drawn(drawing: Drawing) -> Image.Image:
    y, x = np.mgrid[:SIDE, :SIDE]
    pixels = np.full((SIDE, SIDE, 3), COLOURS["white"], np.uint8)
    for shape, colour, centre_x, centre_y, half in drawing:
        pixels[SHAPES[shape](x - centre_x, y - centre_y, half)] = COLOURS[colour]
    return Image.fromarray(pixels)
