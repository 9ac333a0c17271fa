"""Scenes of the shapes world: their elements, random scenes, and rendering."""

from dataclasses import dataclass

import numpy as np

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {  # sRGB, 0..255; the hues are so far apart that shading never turns one into another
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
STYLE_SHARES = {
    "flat": 0.40,
    "outlined": 0.25,
    "noisy": 0.22,
    "shaded": 0.13,
}  # shaded is rare, so that methods can raise its share
RADII = {"small": (0.095, 0.120), "large": (0.170, 0.205)}  # uniform within the range
MARGIN = 0.035  # least distance of shapes from the border; leaves room for an outline
MIN_GAP = 0.06  # least distance of two shapes along the axis of their relation

_PIXEL = (np.arange(IMAGE_SIZE, dtype=np.float32) + 0.5) / IMAGE_SIZE
_X, _Y = np.meshgrid(_PIXEL, _PIXEL)


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


def sample_scene(rng: np.random.Generator, num_shapes: int | None = None, style: str | None = None) -> Scene:
    """Draw a random scene of 1 or 2 shapes, evenly, in a style by `STYLE_SHARES`; both can be given instead."""
    if num_shapes is None:
        num_shapes = int(rng.integers(1, 3))
    if style is None:
        style = str(rng.choice(list(STYLE_SHARES), p=list(STYLE_SHARES.values())))
    background = str(rng.choice(list(BACKGROUNDS)))
    kinds = [(shape, colour) for shape in SHAPES for colour in COLOURS]
    chosen = [kinds[i] for i in rng.choice(len(kinds), size=num_shapes, replace=False)]
    sizes = [str(rng.choice(SIZES)) for _ in chosen]
    radii = [float(rng.uniform(*RADII[size])) for size in sizes]
    centres = _single_centre(rng, radii[0]) if num_shapes == 1 else _pair_centres(rng, *radii)
    shapes = tuple(
        Shape(shape, colour, size, x, y, radius)
        for (shape, colour), size, (x, y), radius in zip(chosen, sizes, centres, radii, strict=True)
    )
    return Scene(shapes, background, style)


def _single_centre(rng: np.random.Generator, radius: float) -> list[tuple[float, float]]:
    place = str(rng.choice(PLACES))
    across = 0.5 + float(rng.uniform(-0.06, 0.06))
    if place == "center":
        return [(0.5 + float(rng.uniform(-0.06, 0.06)), across)]
    nearest = radius + MARGIN
    along = float(
        rng.uniform(max(0.17, nearest), max(0.27, nearest + 0.02))
    )  # distance from the border it is named after
    along = along if place in ("left", "top") else 1.0 - along
    return [(along, across) if place in ("left", "right") else (across, along)]


def _pair_centres(rng: np.random.Generator, first: float, second: float) -> list[tuple[float, float]]:
    relation = str(rng.choice(RELATIONS))
    room = 1.0 - 2.0 * MARGIN - 2.0 * (first + second)
    gap = float(rng.uniform(MIN_GAP, min(0.20, room)))
    start = MARGIN + (room - gap) * float(rng.uniform(0.25, 0.75))
    first_leads = relation in ("left of", "above")
    leading, trailing = (first, second) if first_leads else (second, first)
    ends = [start + leading, start + 2.0 * leading + gap + trailing]
    along = ends if first_leads else ends[::-1]
    across = [0.5 + float(rng.uniform(-0.08, 0.08)) for _ in range(2)]
    points = list(zip(along, across, strict=True))
    return points if relation in ("left of", "right of") else [(y, x) for x, y in points]


def render(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Render a scene as uint8 pixels, [64, 64, 3]; `rng` is used by the noisy style alone.

    Edges are anti-aliased by signed distances: a pixel is covered by the share of its width inside the outline.
    """
    pixels = np.empty((IMAGE_SIZE, IMAGE_SIZE, 3), np.float32)
    pixels[:] = BACKGROUNDS[scene.background]
    if scene.style == "shaded":  # all shadows first, because they fall on the background, not on the other shape
        for shape in scene.shapes:
            depth = -_distance(shape, _X - 0.055, _Y - 0.065)
            pixels *= 1.0 - 0.6 * np.clip(depth / 0.07 + 0.5, 0.0, 1.0)[..., None]
    for shape in scene.shapes:
        distance = _distance(shape, _X, _Y)
        if scene.style == "outlined":
            line = 235.0 if scene.background == "black" else 20.0
            _paint(pixels, distance - 0.022, np.full(3, line, np.float32))
            distance = distance + 0.014
        fill = np.asarray(COLOURS[shape.colour], np.float32)
        _paint(pixels, distance, _lit(shape, fill) if scene.style == "shaded" else fill)
    if scene.style == "noisy":  # two octaves of luminance grain; the latents of a small VAE keep the coarse one
        fine = rng.normal(0.0, 24.0, (32, 32)).repeat(2, 0).repeat(2, 1)
        coarse = rng.normal(0.0, 18.0, (16, 16)).repeat(4, 0).repeat(4, 1)
        pixels += (fine + coarse).astype(np.float32)[..., None]
    return np.clip(pixels + 0.5, 0.0, 255.0).astype(np.uint8)


def _distance(shape: Shape, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the signed distance of points to the outline, in image sides, negative inside (a bound near corners)."""
    u, v, radius = x - shape.x, y - shape.y, shape.radius
    if shape.shape == "circle":
        return np.hypot(u, v) - radius
    if shape.shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) - 0.88 * radius
    if shape.shape == "triangle":  # apex at the top, corners (0, -1) and (+-0.98, 0.8) in radii
        slope_u, slope_v = 1.8 / np.hypot(1.8, 0.98), 0.98 / np.hypot(1.8, 0.98)
        sides = slope_u * np.abs(u) - slope_v * (v + radius)
        return np.maximum(sides, v - 0.8 * radius)
    u, v = np.abs(u), np.abs(v)  # cross: two bars
    return np.minimum(np.maximum(u - radius, v - 0.38 * radius), np.maximum(v - radius, u - 0.38 * radius))


def _paint(pixels: np.ndarray, distance: np.ndarray, colour: np.ndarray) -> None:
    coverage = np.clip(0.5 - distance * IMAGE_SIZE, 0.0, 1.0)[..., None]
    pixels += coverage * (colour - pixels)


def _lit(shape: Shape, fill: np.ndarray) -> np.ndarray:
    """Return the colour of each pixel of a shape lit from the upper left: a ramp with a soft highlight."""
    u, v = (_X - shape.x) / shape.radius, (_Y - shape.y) / shape.radius
    ramp = np.clip(-(u + v) / 1.6, -1.0, 1.0)[..., None]
    lit = fill * (1.0 + 0.62 * np.minimum(ramp, 0.0))
    lit += (255.0 - lit) * 0.35 * np.maximum(ramp, 0.0)
    highlight = 0.55 * np.exp(-((u + 0.33) ** 2 + (v + 0.33) ** 2) / 0.09)[..., None]
    return lit + (255.0 - lit) * highlight
