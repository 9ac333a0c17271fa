"""Candidate images of the shapes world: renderings for a prompt that differ in style, correctness and cleanliness."""

from collections import defaultdict
from dataclasses import replace
from functools import cache

import numpy as np

from alignbench.miniature.captions import Demand, DemandedShape, demand_of
from alignbench.miniature.scenes import (
    BACKGROUNDS,
    COLOURS,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    STYLES,
    Scene,
    Shape,
    render,
    sample_scene,
)

NUM_LAYOUTS = 1536  # drawn once; at least 20 for each place or relation with each choice of sizes
GRAIN = (4.0, 16.0)  # standard deviation of the grain of a dirty image, 8-bit levels; the noisy style has 30
TINT = 24.0  # largest error of a channel of a tinted image, 8-bit levels


def candidate(demand: Demand, rng: np.random.Generator, fault_share: float, dirt_share: float) -> np.ndarray:
    """Render one image for a prompt, uint8 [64, 64, 3], in a style drawn evenly.

    Args:
        fault_share: probability that one thing is wrong: a colour, a shape, the place, the background, or a missing
            shape.
        dirt_share: probability that the image has grain or a tint.
    """
    wanted = with_fault(demand, rng) if rng.random() < fault_share else demand
    pixels = render(scene_for(wanted, str(rng.choice(STYLES)), rng), rng)
    return with_dirt(pixels, rng) if rng.random() < dirt_share else pixels


def scene_for(demand: Demand, style: str, rng: np.random.Generator) -> Scene:
    """Return a scene that meets a demand; sizes that the demand leaves open are drawn at random."""
    sizes = tuple(shape.size or str(rng.choice(SIZES)) for shape in demand.shapes)
    layouts = _layouts()[(demand.place or demand.relation, *sizes)]
    layout = layouts[rng.integers(len(layouts))]
    shapes = tuple(
        replace(where, shape=what.shape, colour=what.colour) for what, where in zip(demand.shapes, layout, strict=True)
    )
    return Scene(shapes, demand.background, demand.style or style)


@cache
def _layouts() -> dict[tuple[str | None, ...], list[tuple[Shape, ...]]]:
    """Return known layouts by place or relation and sizes; drawing layouts until one fits takes 15 times as long."""
    rng = np.random.default_rng(0)
    found: dict[tuple[str | None, ...], list[tuple[Shape, ...]]] = defaultdict(list)
    for number in range(NUM_LAYOUTS):
        scene = sample_scene(rng, num_shapes=1 + (number % 5 > 1))  # 10 kinds of single shapes, 16 of two
        demand = demand_of(scene)
        found[(demand.place or demand.relation, *(shape.size for shape in scene.shapes))].append(scene.shapes)
    return dict(found)


def with_fault(demand: Demand, rng: np.random.Generator) -> Demand:
    """Return a demand that differs from the given one in one respect, which is drawn at random."""
    faults = ["colour", "shape", "place", "background", *(["missing"] if len(demand.shapes) > 1 else [])]
    number = int(rng.integers(len(demand.shapes)))
    match str(rng.choice(faults)):
        case "background":
            return replace(demand, background=_other(BACKGROUNDS, demand.background, rng))
        case "place" if demand.place:
            return replace(demand, place=_other(PLACES, demand.place, rng))
        case "place":
            return replace(demand, relation=_other(RELATIONS, demand.relation, rng))
        case "missing":
            return replace(demand, shapes=(demand.shapes[number],), place=str(rng.choice(PLACES)), relation=None)
        case fault:
            shapes = list(demand.shapes)
            shapes[number] = _changed(shapes[number], fault, rng)
            return replace(demand, shapes=tuple(shapes))


def _changed(shape: DemandedShape, fault: str, rng: np.random.Generator) -> DemandedShape:
    if fault == "colour":
        return replace(shape, colour=_other(COLOURS, shape.colour, rng))
    return replace(shape, shape=_other(SHAPES, shape.shape, rng))


def _other(names, name: str | None, rng: np.random.Generator) -> str:
    return str(rng.choice([other for other in names if other != name]))


def with_dirt(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add grain or a tint to an image."""
    if rng.random() < 0.5:
        dirt = rng.normal(0.0, rng.uniform(*GRAIN), (*pixels.shape[:2], 1))
    else:
        dirt = rng.uniform(-TINT, TINT, 3)
    return np.clip(pixels + dirt + 0.5, 0.0, 255.0).astype(np.uint8)
