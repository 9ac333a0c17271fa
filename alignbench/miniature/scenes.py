"""Scenes of the shapes world: what they consist of, how they are drawn at random, how they are rendered."""

from dataclasses import dataclass

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {  # sRGB, 0..255; hues far apart so that shading never turns one into another
    "red": (220, 40, 40),
    "yellow": (235, 205, 30),
    "green": (40, 170, 60),
    "cyan": (40, 195, 215),
    "blue": (45, 75, 215),
    "purple": (165, 55, 200),
}
BACKGROUNDS = {"white": (245, 245, 245), "gray": (140, 140, 140), "black": (18, 18, 18), "beige": (235, 215, 175)}
STYLES = ("flat", "shaded", "outlined", "noisy")
PLACES = ("left", "right", "top", "bottom", "center")  # of a single shape
RELATIONS = ("left of", "right of", "above", "below")  # of the first of two shapes to the second
SIZES = ("small", "large")
IMAGE_SIZE = 64


@dataclass(frozen=True)
class Shape:
    """One shape: centre (x to the right, y down) and half-width `radius`, all as shares of the image side."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Scene:
    """One or two shapes that do not overlap, on a plain background, in one rendering style."""

    shapes: tuple[Shape, ...]
    background: str
    style: str
