"""Read what an image of the shapes world shows: background, shapes, style, light and dirt.

This is a program, not a network, and no method trains on it. Chroma separates shapes from the background, because
neither shadow nor gray grain changes it. Outlines give the kind of a shape. To measure light, shadow and dirt, the
scene that was read is rendered and compared with the image.
"""

from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from scipy import ndimage

from alignbench.miniature.scenes import BACKGROUNDS, COLOURS, IMAGE_SIZE, RADII, SHAPES, SIZES, Scene, Shape, render

# finding shapes
MIN_CHROMA = 24.0  # a pixel this far from the background's chroma belongs to a shape; the darkest shade has 38
MIN_AREA = 20  # pixels; smaller blobs are dirt, the smallest outlined triangle fills 36
MIN_COLOUR_SHARE = 0.12  # a second colour with at least this share of a patch is a shape of its own
MIN_CORE = 9  # pixels; if a margin of two pixels leaves fewer than these, the margin is one pixel
MAX_BLOBS = 4  # only the largest are read; a prompt asks for two at most
MAX_MISFIT = 0.3  # a blob is of the closest kind if it differs from it by at most this share of its area
MAX_BACKGROUND_ERROR = 60.0  # RGB distance to the closest named background
SOFTNESS = (0.0, 1.0, 2.0, 3.0)  # standard deviations in pixels of the blurs of the templates
SIZE_LIMIT = (RADII["small"][1] + RADII["large"][0]) / 2

# styles
LINE, LINE_ON_BLACK = 20.0, 235.0  # brightness of the outlined style's line
LINE_EDGE = 0.65  # share of the way from the background's to the line's brightness that counts as line
LINE_REACH = 0.022  # width of the line outside of a shape, in image sides
VISIBLE_SHADOW = 60.0  # a background darker than this shows no shadow
EVIDENT = 0.35  # strength of a line, or of light and shadow, from which a style is read; other styles have below 0.2
NOISY_GRAIN = 2.8  # coarse grain of the noisy style: 9 to 15, 4 after an autoencoder; other styles have up to 2

# cleanliness: the amount of each fault, in 8-bit levels or pixels, that halves it
GRAIN_SCALE = 8.0
DRIFT_SCALE = 40.0
STRAY_SCALE = 40.0
MIN_SPOT = 60.0  # a background pixel that differs by this many 8-bit levels counts as stray

# orthonormal axes across the gray diagonal: light and shade move a chroma along a ray, and gray grain does not move it
_CHROMA_AXES = np.array([[1, 1], [-1, 1], [0, -2]], np.float32) / np.sqrt(np.array([2, 6], np.float32))
_GRAY = np.full(3, 1 / 3, np.float32)
_COLOUR_NAMES = tuple(COLOURS)
_COLOUR_CHROMA = np.array(list(COLOURS.values()), np.float32) @ _CHROMA_AXES
_COLOUR_STRENGTHS = np.linalg.norm(_COLOUR_CHROMA, axis=1)
_COLOUR_DIRECTIONS = _COLOUR_CHROMA / _COLOUR_STRENGTHS[:, None]
_GRID = np.linspace(-1.0, 1.0, 32)
_BORDER = np.pad(np.zeros((IMAGE_SIZE - 6, IMAGE_SIZE - 6), bool), 3, constant_values=True)
_SQUARE = np.ones((3, 3), bool)


@dataclass(frozen=True)
class SeenShape:
    """A shape found in an image.

    misfit: share of its area by which it differs from the ideal outline of its kind.
    drift: distance of its chroma from its named colour at any lighting, in 8-bit levels.
    line: strength of the line around it, 0 for none, 1 as in the outlined style.
    """

    shape: Shape
    misfit: float
    drift: float
    line: float

    @property
    def kind(self) -> str | None:
        """Its kind, or None if the outline fits none."""
        return self.shape.shape if self.misfit <= MAX_MISFIT else None


@dataclass(frozen=True)
class Reading:
    """Everything the oracle reads from one image.

    background: one of BACKGROUNDS, or None if it fits none.
    seen: the shapes, largest first.
    shading, shadow: 0 for none, 1 as in a rendering of the shaded style; shadow is None if the background is too dark
        to show one.
    grain: root mean square of the variation within a few pixels, away from edges, in 8-bit levels.
    coarse_grain: the part of the grain that is coarser than a pixel, as in the noisy style.
    drift: the largest distance of a colour from the palette, in 8-bit levels.
    stray_area: number of pixels in blobs that are not shapes.
    brightness: mean light, 0..1.
    colourfulness: mean distance from gray, 0..1.
    """

    background: str | None
    seen: tuple[SeenShape, ...]
    shading: float
    shadow: float | None
    grain: float
    coarse_grain: float
    drift: float
    stray_area: int
    brightness: float
    colourfulness: float

    @property
    def realism(self) -> float:
        """How much the image looks shaded, 0..1: half for the light on the shapes, half for their cast shadows."""
        return self.shading if self.shadow is None else (self.shading + self.shadow) / 2

    @property
    def outline(self) -> float:
        """How much the image looks outlined, 0..1."""
        return float(np.mean([seen.line for seen in self.seen])) if self.seen else 0.0

    @property
    def cleanliness(self) -> float:
        """Absence of grain, ringing, colours out of the palette and stray blobs, 0..1."""
        faults = (self.grain / GRAIN_SCALE, self.drift / DRIFT_SCALE, self.stray_area / STRAY_SCALE)
        return float(np.prod([1.0 / (1.0 + fault**2) for fault in faults]))

    @property
    def style(self) -> str:
        """The style, one of STYLES: outlined or shaded if that is evident, else noisy or flat by the grain."""
        style, strength = max(("outlined", self.outline), ("shaded", self.realism), key=lambda pair: pair[1])
        if strength > EVIDENT:
            return style
        return "noisy" if self.coarse_grain > NOISY_GRAIN else "flat"


def read(image: np.ndarray) -> Reading:
    """Read one image, uint8 [64, 64, 3].

    Raises:
        ValueError: the image has another size or type.
    """
    if image.shape != (IMAGE_SIZE, IMAGE_SIZE, 3) or image.dtype != np.uint8:
        expected, found = f"uint8 [{IMAGE_SIZE}, {IMAGE_SIZE}, 3]", f"{image.dtype} {list(image.shape)}"
        raise ValueError(f"the image is {found}, expected {expected}")
    pixels = image.astype(np.float32)
    ground = np.median(pixels[_BORDER], axis=0)
    errors = {name: float(np.linalg.norm(ground - np.array(colour))) for name, colour in BACKGROUNDS.items()}
    background = min(errors, key=errors.__getitem__)
    blobs, small_area = _blobs(pixels, ground)
    seen = tuple(_recognise(blob, pixels, ground) for blob in blobs)
    surfaces = _surfaces(pixels, ground, background, seen, blobs)
    return Reading(
        background=background if errors[background] <= MAX_BACKGROUND_ERROR else None,
        seen=seen,
        shading=surfaces.shading,
        shadow=surfaces.shadow,
        grain=surfaces.grain,
        coarse_grain=surfaces.coarse_grain,
        drift=max([errors[background], *(shape.drift for shape in seen)]),
        stray_area=small_area + surfaces.num_spots,
        brightness=float((image / 255.0).mean()),
        colourfulness=float((image / 255.0).std(axis=-1).mean()),
    )


@dataclass(frozen=True)
class _Blob:
    """A connected patch of colour: a window of the image with four pixels of margin, and masks within it."""

    window: tuple[slice, slice]
    mask: np.ndarray
    core: np.ndarray  # the mask without the pixels that edges reach


def _blobs(pixels: np.ndarray, ground: np.ndarray) -> tuple[list[_Blob], int]:
    """Return the blobs that may be shapes, largest first, and the number of pixels in smaller ones."""
    light, ground_light = pixels @ _GRAY, max(float(ground.mean()), 1.0)
    chroma, ground_chroma = ndimage.gaussian_filter(pixels @ _CHROMA_AXES, (0.7, 0.7, 0)), ground @ _CHROMA_AXES
    # shadow and clipping at white reduce the chroma of a background (beige) with its light; gray grain does not
    paled = np.clip(np.minimum(light / ground_light, (255.0 - light) / max(255.0 - ground_light, 1.0)), 0.0, 1.0)
    share = chroma @ ground_chroma / max(float(ground_chroma @ ground_chroma), 1.0)
    share = np.clip(share, paled, np.minimum(paled + 0.4, 1.0))
    excess = chroma - share[..., None] * ground_chroma
    labels = np.empty(light.shape, np.int32)
    ndimage.label(np.hypot(excess[..., 0], excess[..., 1]) > MIN_CHROMA, output=labels)
    areas = np.bincount(labels.ravel())[1:]
    order = [index for index in np.argsort(-areas)[:MAX_BLOBS] if areas[index] >= MIN_AREA]
    objects = ndimage.find_objects(labels)
    blobs = []
    for index in order:
        rows, columns = (slice(max(axis.start - 4, 0), axis.stop + 4) for axis in objects[index])
        window = rows, columns
        for region in _colours_apart(labels[window] == index + 1, chroma[window]):
            mask = np.asarray(ndimage.binary_fill_holes(region))
            core = np.asarray(ndimage.binary_erosion(mask, _SQUARE))
            inner = np.asarray(ndimage.binary_erosion(core))
            blobs.append(_Blob(window, mask, inner if inner.sum() >= MIN_CORE else core if core.any() else mask))
    return sorted(blobs, key=lambda blob: -blob.mask.sum()), int(areas.sum() - areas[order].sum())


def _colours_apart(patch: np.ndarray, chroma: np.ndarray) -> list[np.ndarray]:
    """Split a patch in which shapes of two colours touch; soft edges and a tint do not count as a second shape."""
    hues = np.argmax(chroma @ _COLOUR_DIRECTIONS.T, axis=-1)
    min_area = max(MIN_AREA, MIN_COLOUR_SHARE * patch.sum())
    common = np.flatnonzero(np.bincount(hues[patch]) >= min_area)
    regions = [np.asarray(ndimage.binary_opening(patch & (hues == hue), _SQUARE)) for hue in common]
    regions = [region for region in regions if region.sum() >= min_area]
    if len(regions) < 2:
        return [patch]
    distances = [np.asarray(ndimage.distance_transform_edt(np.logical_not(region))) for region in regions]
    nearest = np.argmin(np.array(distances), axis=0)
    return [patch & (nearest == number) for number in range(len(regions))]


def _line(blob: _Blob, pixels: np.ndarray, ground: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the strength of the line around a blob, as in the outlined style, and the mask of blob and line."""
    ground_light = float(ground.mean())
    line_light = LINE_ON_BLACK if ground_light < VISIBLE_SHADOW else LINE
    likeness = (pixels[blob.window] @ _GRAY - ground_light) / (line_light - ground_light)
    rows, columns = np.nonzero(np.logical_and(ndimage.binary_dilation(blob.mask), ~blob.mask))
    upper_left = (rows - rows.mean()) + (columns - columns.mean()) < 0  # there is no shadow on this side
    reach = ndimage.binary_dilation(blob.mask, _SQUARE, iterations=3)
    return float(np.median(likeness[rows, columns][upper_left])), blob.mask | np.logical_and(
        reach, likeness > LINE_EDGE
    )


def _canonical(mask: np.ndarray) -> tuple[np.ndarray, float, float, float]:
    """Return a mask moved to its centroid and scaled to area 1, on a grid over -1..1, with centroid and scale."""
    rows, columns = np.nonzero(mask)
    y, x, scale = float(rows.mean()), float(columns.mean()), float(np.sqrt(rows.size))
    grid = np.meshgrid(y + _GRID * scale, x + _GRID * scale, indexing="ij")
    return ndimage.map_coordinates(mask.astype(np.float32), grid, order=1), x, y, scale


@dataclass(frozen=True)
class _Templates:
    """Canonical outlines of each kind, their scales, and (x, y, radius) relative to the centroid, in scales."""

    kinds: np.ndarray
    softness: np.ndarray
    outlines: np.ndarray
    scales: np.ndarray
    geometry: np.ndarray


@cache
def _templates() -> _Templates:
    """Return templates of each kind and size, sharp and blurred as by autoencoders."""
    kinds, softnesses, outlines, scales, geometry = [], [], [], [], []
    for kind, size, softness in product(SHAPES, SIZES, SOFTNESS):
        radius, middle = float(np.mean(RADII[size])), IMAGE_SIZE / 2 - 0.5
        scene = Scene((Shape(kind, "red", size, 0.5, 0.5, radius),), "gray", "flat")
        pixels = ndimage.gaussian_filter(
            render(scene, np.random.default_rng(0)).astype(np.float32), (softness, softness, 0)
        )
        (blob,), _ = _blobs(pixels, pixels[0, 0])
        outline, x, y, scale = _canonical(blob.mask)
        x, y = x + blob.window[1].start, y + blob.window[0].start
        kinds.append(kind)
        softnesses.append(softness)
        outlines.append(outline)
        scales.append(scale)
        geometry.append(((middle - x) / scale, (middle - y) / scale, radius * IMAGE_SIZE / scale))
    return _Templates(*map(np.array, (kinds, softnesses, outlines, scales, geometry)))


def _recognise(blob: _Blob, pixels: np.ndarray, ground: np.ndarray) -> SeenShape:
    """Name a blob's kind, colour and size, and measure where it is."""
    line, with_line = _line(blob, pixels, ground)
    lined = line > EVIDENT
    outline, x, y, scale = _canonical(with_line if lined else blob.mask)
    templates = _templates()
    misfits = np.abs(templates.outlines - outline).sum(axis=(1, 2)) * (_GRID[1] - _GRID[0]) ** 2
    kind = str(templates.kinds[int(np.argmin(misfits))])
    # A blurred small circle and a sharp large one have the same outline. Among templates that fit almost equally, the
    # one of the nearest scale is used. Blur hardly moves the outer edge of a line, so then only sharp ones count.
    possible = (templates.kinds == kind) & ((templates.softness == 0.0) | (not lined))
    unlike = np.where(possible, np.abs(np.log(scale / templates.scales)), np.inf)
    best = int(np.argmin(misfits + 0.5 * unlike))
    corner = (blob.window[1].start + 0.5, blob.window[0].start + 0.5, 0.0)
    x, y, radius = (np.array([x, y, 0.0]) + corner + templates.geometry[best] * scale) / IMAGE_SIZE
    radius -= LINE_REACH if lined else 0.0
    size = "small" if radius < SIZE_LIMIT else "large"

    chroma = np.median(pixels[blob.window][blob.core] @ _CHROMA_AXES, axis=0)
    colour = int(np.argmax(_COLOUR_DIRECTIONS @ chroma))
    # light and shade make a colour paler, never stronger
    strength = np.clip(_COLOUR_DIRECTIONS[colour] @ chroma, 0.5 * _COLOUR_STRENGTHS[colour], _COLOUR_STRENGTHS[colour])
    drift = float(np.linalg.norm(chroma - strength * _COLOUR_DIRECTIONS[colour]))
    shape = Shape(kind, _COLOUR_NAMES[colour], size, float(x), float(y), float(radius))
    return SeenShape(shape, float(misfits.min()), drift, line)


def _likeness(values: np.ndarray, pattern: np.ndarray) -> tuple[float, float]:
    """Return how much of a pattern is in the values, 0..1, and the slope of the values on the pattern.

    The first is slope times correlation: a high slope alone may be contrast, and a high correlation alone a trace.
    """
    values, pattern = values - values.mean(), pattern - pattern.mean()
    common, power = float(values @ pattern), max(float(pattern @ pattern), 1e-6)
    slope, correlation = common / power, common / max(float(np.sqrt(power * (values @ values))), 1e-6)
    return min(max(slope, 0.0), 1.0) * max(correlation, 0.0), slope


@dataclass(frozen=True)
class _Surfaces:
    """Light and dirt on the background and the shapes; see `Reading`."""

    shading: float
    shadow: float | None
    grain: float
    coarse_grain: float
    num_spots: int


def _surfaces(
    pixels: np.ndarray, ground: np.ndarray, background: str, seen: tuple[SeenShape, ...], blobs: list[_Blob]
) -> _Surfaces:
    """Compare the image, away from edges, with a shaded rendering of the scene that was read."""
    scene = Scene(tuple(shape.shape for shape in seen), background, "shaded")
    ideal = render(scene, np.random.default_rng(0)).astype(np.float32)
    light, ideal_light = pixels @ _GRAY, ideal @ _GRAY

    outside = np.ones(light.shape, bool)
    for blob in blobs:
        outside[blob.window] &= ~blob.mask
    outside = np.asarray(ndimage.minimum_filter(outside, 7), bool)  # beyond a line
    shadow, slope = None, 0.0
    if ground.mean() > VISIBLE_SHADOW and blobs and outside.any():
        shadow, slope = _likeness(light[outside], ideal_light[outside])

    # what palette, light and shadow do not explain; 0 near edges
    calm = np.asarray(ndimage.minimum_filter(outside, 3), bool)  # beyond the long corners of a line as well
    ideal_ground = np.array(BACKGROUNDS[background], np.float32)
    residual = (pixels - ground - slope * (ideal - ideal_ground)) * calm[..., None]
    spots = np.abs(ndimage.uniform_filter(residual, 3, axes=(0, 1))).max(axis=-1) > MIN_SPOT

    measured, shadings = calm.copy(), []
    for blob in blobs:
        here, there = pixels[blob.window][blob.core], ideal[blob.window][blob.core]
        shading, slope = _likeness(here @ _GRAY, there @ _GRAY)
        shadings.append(shading)
        residual[blob.window][blob.core] = (here - here.mean(axis=0)) - slope * (there - there.mean(axis=0))
        measured[blob.window] |= blob.core
    weight = np.maximum(ndimage.uniform_filter(measured.astype(np.float32), 7), 1e-3)[..., None]
    grain = (residual - ndimage.uniform_filter(residual, 7, axes=(0, 1)) / weight) * measured[..., None]
    coarse_grain = ndimage.uniform_filter(grain, 3, axes=(0, 1))
    num_values = 3 * max(int(measured.sum()), 1)
    return _Surfaces(
        shading=float(np.mean(shadings)) if shadings else 0.0,
        shadow=shadow,
        grain=float(np.sqrt((grain**2).sum() / num_values)),
        coarse_grain=float(np.sqrt((coarse_grain**2).sum() / num_values)),
        num_spots=int(spots.sum()),
    )
