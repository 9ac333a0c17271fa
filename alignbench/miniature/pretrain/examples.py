"""Images with captions that are right, or wrong in one respect or several, and what is true of each of their words."""

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

NUM_CAPTIONS = 3  # of an image: one that is right, one with a single fault, one with one to four
PATCH_SIZE = 8  # pixels
SINGLE_SHARE = 0.35  # of images that show one shape
SIZED_SHARE = 0.6  # of shapes whose size is named
STYLE_SHARE = 0.4  # of captions that name the style
DIRT_SHARE = 0.3  # of images that are dirty
RESERVED_SHARE = 0.3  # of prompts, by the hash of their text, are left for judges to be chosen by and measured on

# What the shape is that a patch shows, and where, in the picture or to the other one; None where there is no shape.
PATCH_ANSWERS = tuple((None, *names) for names in (SHAPES, COLOURS, SIZES, (*PLACES, *RELATIONS)))

# What a token says of the picture. The end of the sentence says that there is no more than it named.
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
        captions: NUM_CAPTIONS, the first of which is right.
        met: of each caption, which of its demands the image meets; see `met_by`.
        shown: what the patches show, row by row, [64, 4]: numbers in PATCH_ANSWERS.
        whole: number of the background and of the style.
        dirt: mean error of each channel in tints at most, -1..1, and spread of the grain in the largest, 0..1; float32.
    """

    pixels: np.ndarray
    captions: list[str]
    met: list[dict[str, bool]]
    shown: np.ndarray
    whole: tuple[int, int]
    dirt: np.ndarray


def draw_example(rng: np.random.Generator) -> Example:
    """Draw an image and its captions.

    No caption says what a held-out prompt does, and none is a prompt that judges are chosen by or measured on.
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
    """Return a scene and what a right caption says of it: some of the sizes, sometimes the style."""
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
    """Return a demand with so many things changed, one after the other."""
    while True:
        changed = demand
        for _ in range(num_faults):
            changed = _changed(changed, rng)
        if _may_be_shown(changed):
            return changed


def _changed(demand: Demand, rng: np.random.Generator) -> Demand:
    """Return a demand that differs in one respect: as candidates do, or in a size, the style, or by a second shape."""
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
    """Return which demands a scene meets, as the oracle says it of a perfect rendering, the style among them."""
    seen = tuple(SeenShape(shape, misfit=0.0, drift=0.0, line=0.0) for shape in scene.shapes)
    clean = Reading(scene.background, seen, 0.0, None, 0.0, 0.0, 0.0, 0, 0.0, 0.0)
    met = facts(clean, demand)
    return met if demand.style is None else met | {"style": demand.style == scene.style}


def _shown(scene: Scene) -> np.ndarray:
    """Return what each patch shows: the shape that covers its middle, or nearly so."""
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
    """Yield of each token of a caption whether what it says is there: 1 or 0; -1 of those that say nothing.

    Args:
        tokens: whole words, and [SEP] at the end.
        met: what `met_by` says of the caption.
    """
    noun = 1
    for token in tokens:
        subject = _SUBJECTS.get(token)
        fact = f"{subject} {noun}" if subject in _OF_A_SHAPE else subject
        noun += subject == "shape"
        yield -1.0 if fact is None else float(met[fact])
