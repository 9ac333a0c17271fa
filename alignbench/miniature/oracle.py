"""Whether an image of the shapes world shows what a prompt asks for, as a program reads the image."""

from itertools import permutations

import numpy as np

from alignbench.miniature.captions import Demand, parse, place_of_point, relation_of_points
from alignbench.miniature.reading import Reading, SeenShape, read


def facts(reading: Reading, demand: Demand) -> dict[str, bool]:
    """Return which demands an image meets, by name.

    The shapes found are matched with the shapes demanded so that the most demands are met. Style is not among the
    facts; `style` and `realism` measure it.
    """
    candidates = [*reading.seen, *[None] * len(demand.shapes)]
    matches = (_facts_of_match(match, demand) for match in permutations(candidates, len(demand.shapes)))
    return {
        "number": len(reading.seen) == len(demand.shapes),
        "background": reading.background == demand.background,
        **max(matches, key=lambda met: sum(met.values())),
    }


def _facts_of_match(match: tuple[SeenShape | None, ...], demand: Demand) -> dict[str, bool]:
    met = {}
    for number, (seen, demanded) in enumerate(zip(match, demand.shapes, strict=True), start=1):
        met[f"shape {number}"] = seen is not None and seen.kind == demanded.shape
        met[f"colour {number}"] = seen is not None and seen.shape.colour == demanded.colour
        if demanded.size is not None:
            met[f"size {number}"] = seen is not None and seen.shape.size == demanded.size
    centres = [(seen.shape.x, seen.shape.y) for seen in match if seen is not None]
    if len(centres) < len(match):
        met["arrangement"] = False
    elif demand.place is not None:
        met["arrangement"] = place_of_point(*centres[0]) == demand.place
    else:
        met["arrangement"] = relation_of_points(*centres[0], *centres[1]) == demand.relation
    return met


def agreement(image: np.ndarray, prompt: str) -> float:
    """Return the share of the prompt's demands that an image meets, 0..1.

    Demands are the number of shapes, their kinds, colours and, where the prompt names them, sizes, their place or
    relation, and the background.

    Raises:
        ValueError: the prompt is not of the shapes world, or the image is not uint8 [64, 64, 3].
    """
    return float(np.mean(list(facts(read(image), parse(prompt)).values())))


def all_right(image: np.ndarray, prompt: str) -> bool:
    """Say whether shapes, colours, places and background are all as the prompt asks; sizes and style may differ."""
    met = facts(read(image), parse(prompt))
    return all(right for name, right in met.items() if not name.startswith("size"))


def realism(image: np.ndarray) -> float:
    """Return how much an image looks shaded, 0..1; see `Reading.realism`."""
    return read(image).realism


def cleanliness(image: np.ndarray) -> float:
    """Return how free of grain, ringing, wrong colours and stray blobs an image is, 0..1."""
    return read(image).cleanliness


def style(image: np.ndarray) -> str:
    """Return the style an image is rendered in, one of STYLES."""
    return read(image).style
