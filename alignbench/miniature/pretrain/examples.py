"""Images with right and wrong captions, and whether each word of a caption is true."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from alignbench.miniature.candidates import GRAIN, TINT, with_dirt, with_fault
from alignbench.miniature.captions import Demand, DemandedShape, demand_of, place_of_point, relation_of_points, split_of
from alignbench.miniature.oracle import facts
from alignbench.miniature.reading import Reading, SeenShape
from alignbench.miniature.scenes import (
    BACKGROUNDS,
    COLOURS,
    IMAGE_SIZE,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    STYLES,
    Scene,
    render,
    sample_scene,
)
from alignbench.text import is_held_out

NUM_CAPTIONS = 3  # captions of an image: a right one, one with a single fault, one with one to four faults
PATCH_SIZE = 8  # pixels
SINGLE_SHARE = 0.35  # share of images that show one shape
SIZED_SHARE = 0.6  # share of shapes whose size is named
STYLE_SHARE = 0.4  # share of captions that name the style
DIRT_SHARE = 0.3  # share of images with dirt
RESERVED_SHARE = 0.3  # share of prompts, by a hash of their text, that are reserved to validate and test reward models

# The shape that a patch shows, and its place in the image or relation to the other shape; None if there is no shape.
PATCH_ANSWERS = tuple((None, *names) for names in (SHAPES, COLOURS, SIZES, (*PLACES, *RELATIONS)))

# What a token of a caption says about. The end of the sentence says that there are no more shapes than were named.
_SUBJECTS = {
    **dict.fromkeys(SIZES, "size"), **dict.fromkeys(COLOURS, "colour"), **dict.fromkeys(SHAPES, "shape"),
    **dict.fromkeys(BACKGROUNDS, "background"), **dict.fromkeys(STYLES, "style"),
    **dict.fromkeys(("left", "right", "top", "bottom", "center", "above", "below"), "arrangement"),
    "[SEP]": "number",
}  # fmt: skip
_OF_A_SHAPE = ("size", "colour", "shape")


@dataclass(frozen=True)
class Example:
    """One image with its captions.

    Attributes:
        pixels: uint8 [64, 64, 3].
        captions: NUM_CAPTIONS captions; the first one is right.
        met: for each caption, which of its demands the image meets; see `met_by`.
        shown: what each patch shows, row by row, [64, 4]: indices in PATCH_ANSWERS.
        whole: indices of the background and of the style.
        dirt: mean error of each channel relative to TINT, -1..1, and standard deviation of the grain relative to the
            largest of GRAIN, 0..1; float32.
    """

    pixels: np.ndarray
    captions: list[str]
    met: list[dict[str, bool]]
    shown: np.ndarray
    whole: tuple[int, int]
    dirt: np.ndarray


def draw_example(rng: np.random.Generator) -> Example:
    """Draw an image and its captions.

    No caption has the content of a held-out prompt, and none is a prompt that is reserved for reward models.
    """
    scene, demand = _scene(rng)
    clean = pixels = render(scene, rng)
    if rng.random() < DIRT_SHARE:
        pixels = with_dirt(clean, rng)
    demands = [demand, _with_faults(demand, 1, rng), _with_faults(demand, int(rng.integers(1, 5)), rng)]
    difference = (pixels.astype(np.float32) - clean).reshape(-1, 3)
    dirt = np.array([*difference.mean(axis=0) / TINT, difference.std(axis=0).mean() / GRAIN[1]], np.float32)
    whole = (list(BACKGROUNDS).index(scene.background), STYLES.index(scene.style))
    met = [met_by(scene, demand) for demand in demands]
    return Example(pixels, [str(demand) for demand in demands], met, _shown(scene), whole, dirt)


def _scene(rng: np.random.Generator) -> tuple[Scene, Demand]:
    """Return a scene and the demand of a right caption, with some of the sizes and sometimes the style."""
    while True:
        num_shapes = 1 if rng.random() < SINGLE_SHARE else 2
        scene = sample_scene(rng, num_shapes, STYLES[rng.integers(len(STYLES))])
        demand = demand_of(scene)
        shapes = tuple(shape if rng.random() < SIZED_SHARE else replace(shape, size=None) for shape in demand.shapes)
        demand = replace(demand, shapes=shapes, style=demand.style if rng.random() < STYLE_SHARE else None)
        if _may_be_shown(demand):
            return scene, demand


def _may_be_shown(demand: Demand) -> bool:
    plain = replace(demand, style=None)
    return split_of(plain) == "train" and not is_held_out(str(plain), RESERVED_SHARE)


def _with_faults(demand: Demand, num_faults: int, rng: np.random.Generator) -> Demand:
    """Return a demand after `num_faults` changes, one after the other."""
    while True:
        changed = demand
        for _ in range(num_faults):
            changed = _changed(changed, rng)
        if _may_be_shown(changed):
            return changed


def _changed(demand: Demand, rng: np.random.Generator) -> Demand:
    """Return a demand that differs in one respect: a fault of candidates, a size, the style, or a second shape."""
    draw = rng.random()
    if demand.style and draw < 0.15:
        return replace(demand, style=str(rng.choice([style for style in STYLES if style != demand.style])))
    sized = [number for number, shape in enumerate(demand.shapes) if shape.size]
    if sized and draw < 0.3:
        shapes, number = list(demand.shapes), int(rng.choice(sized))
        shapes[number] = replace(shapes[number], size=SIZES[1 - SIZES.index(str(shapes[number].size))])
        return replace(demand, shapes=tuple(shapes))
    if len(demand.shapes) == 1 and draw > 0.8:
        size = None if rng.random() < 1.0 - SIZED_SHARE else str(rng.choice(SIZES))
        other = DemandedShape(str(rng.choice(SHAPES)), str(rng.choice(list(COLOURS))), size)
        shapes = (demand.shapes[0], other)[:: int(rng.choice((-1, 1)))]
        return replace(demand, shapes=shapes, place=None, relation=str(rng.choice(RELATIONS)))
    return with_fault(demand, rng)


def met_by(scene: Scene, demand: Demand) -> dict[str, bool]:
    """Return which demands a scene meets, style included, as the oracle would read a perfect rendering."""
    seen = tuple(SeenShape(shape, misfit=0.0, drift=0.0, line=0.0) for shape in scene.shapes)
    clean = Reading(scene.background, seen, 0.0, None, 0.0, 0.0, 0.0, 0, 0.0, 0.0)
    met = facts(clean, demand)
    return met if demand.style is None else met | {"style": demand.style == scene.style}


def _shown(scene: Scene) -> np.ndarray:
    """Return what each patch shows: the shape that covers its centre, or almost covers it."""
    middles = (np.arange(IMAGE_SIZE // PATCH_SIZE) + 0.5) * PATCH_SIZE / IMAGE_SIZE
    x, y = np.meshgrid(middles, middles)
    shown = np.zeros((*x.shape, len(PATCH_ANSWERS)), np.int64)
    for shape, other in zip(scene.shapes, scene.shapes[::-1], strict=True):
        centre = (shape.x, shape.y)
        where = place_of_point(*centre) if shape is other else relation_of_points(*centre, other.x, other.y)
        there = np.maximum(abs(x - shape.x), abs(y - shape.y)) < shape.radius + 0.25 * PATCH_SIZE / IMAGE_SIZE
        said = (shape.shape, shape.colour, shape.size, where)
        shown[there] = [answers.index(one) for answers, one in zip(PATCH_ANSWERS, said, strict=True)]
    return shown.reshape(-1, len(PATCH_ANSWERS))


def truths(tokens: Sequence[str], met: dict[str, bool]) -> Iterator[float]:
    """Yield for each token of a caption whether it is true of the image: 1 or 0, and -1 for tokens without meaning.

    Args:
        tokens: whole words, then [SEP].
        met: the result of `met_by` for the caption.
    """
    noun = 1
    for token in tokens:
        subject = _SUBJECTS.get(token)
        fact = f"{subject} {noun}" if subject in _OF_A_SHAPE else subject
        noun += subject == "shape"
        yield -1.0 if fact is None else float(met[fact])
