"""Prompts of the shapes world: the grammar, its parser, and random prompts.

Sentences of the grammar:

    a large red circle on the left, white background
    a small blue square left of a yellow cross, gray background
    shaded. a red circle in the center, black background
"""

import hashlib
import itertools
import re
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np

from alignbench.miniature.scenes import BACKGROUNDS, COLOURS, PLACES, RELATIONS, SHAPES, SIZES, STYLES, Scene

CENTER_REACH = 0.145  # in the center: less than this from the middle on both axes (drawn: < 0.06, other places: > 0.22)
SIZE_OMITTED = 0.3  # probability that a caption does not name the size of a shape
HELDOUT_SHARE = 0.2
SINGLE_SHARE = 0.5  # probability that a random prompt asks for one shape, while such prompts are left

_PLACE_PHRASES = {
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
    "center": "in the center",
}
_MIRRORED = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


@dataclass(frozen=True)
class DemandedShape:
    """One shape that a prompt asks for; `size` is None where the prompt leaves it open."""

    shape: str
    colour: str
    size: str | None


@dataclass(frozen=True)
class Demand:
    """What a prompt asks for: one shape and its `place`, or two shapes and the `relation` of first to second."""

    shapes: tuple[DemandedShape, ...]
    place: str | None
    relation: str | None
    background: str
    style: str | None

    def __str__(self) -> str:
        """Return the prompt that asks for exactly this."""
        nouns = [" ".join(filter(None, ("a", shape.size, shape.colour, shape.shape))) for shape in self.shapes]
        if self.place is not None:
            arrangement = f"{nouns[0]} {_PLACE_PHRASES[self.place]}"
        else:
            arrangement = f"{nouns[0]} {self.relation} {nouns[1]}"
        prefix = f"{self.style}. " if self.style else ""
        return f"{prefix}{arrangement}, {self.background} background"


def place_of_point(x: float, y: float) -> str:
    """Return the name of the place of a point, given as shares of the image side, x to the right and y down."""
    dx, dy = x - 0.5, y - 0.5
    if max(abs(dx), abs(dy)) < CENTER_REACH:
        return "center"
    if abs(dx) >= abs(dy):
        return "left" if dx < 0 else "right"
    return "top" if dy < 0 else "bottom"


def relation_of_points(x: float, y: float, other_x: float, other_y: float) -> str:
    """Return the relation of the first point to the other, along the axis on which they are further apart."""
    dx, dy = x - other_x, y - other_y
    if abs(dx) >= abs(dy):
        return "left of" if dx < 0 else "right of"
    return "above" if dy < 0 else "below"


def place_of(scene: Scene) -> str:
    """Return where the only shape of a scene is, one of PLACES."""
    (shape,) = scene.shapes
    return place_of_point(shape.x, shape.y)


def relation_of(scene: Scene) -> str:
    """Return the relation of the first of two shapes to the second, one of RELATIONS."""
    first, second = scene.shapes
    return relation_of_points(first.x, first.y, second.x, second.y)


def demand_of(scene: Scene) -> Demand:
    """Return the complete demand that a scene meets, sizes and style included."""
    single = len(scene.shapes) == 1
    return Demand(
        shapes=tuple(DemandedShape(shape.shape, shape.colour, shape.size) for shape in scene.shapes),
        place=place_of(scene) if single else None,
        relation=None if single else relation_of(scene),
        background=scene.background,
        style=scene.style,
    )


def caption(scene: Scene, rng: np.random.Generator, style_word: bool) -> str:
    """Describe a scene in the grammar; each size word is left out with probability SIZE_OMITTED.

    If `style_word` is true, the rendering style comes first, in SRPO's template of control words: "<word>. <prompt>".
    """
    demand = demand_of(scene)
    shapes = tuple(replace(s, size=None) if rng.random() < SIZE_OMITTED else s for s in demand.shapes)
    return str(replace(demand, shapes=shapes, style=demand.style if style_word else None))


def _alternatives(words) -> str:
    return "(" + "|".join(words) + ")"


_NOUN = rf"a (?:{_alternatives(SIZES)} )?{_alternatives(COLOURS)} {_alternatives(SHAPES)}"
_PROMPT = re.compile(
    rf"(?:{_alternatives(STYLES)}\. )?{_NOUN} "
    rf"(?:{_alternatives(_PLACE_PHRASES.values())}|{_alternatives(RELATIONS)} {_NOUN}), "
    rf"{_alternatives(BACKGROUNDS)} background"
)
_PLACES_BY_PHRASE = {phrase: place for place, phrase in _PLACE_PHRASES.items()}


def parse(prompt: str) -> Demand:
    """Return what a prompt asks for.

    Raises:
        ValueError: the prompt is not a sentence of the grammar.
    """
    match = _PROMPT.fullmatch(prompt)
    if match is None:
        raise ValueError(
            f"the prompt {prompt!r} is not of the shapes world; expected a sentence such as "
            "'a large red circle on the left, white background'"
        )
    style, size, colour, shape, phrase, relation, other_size, other_colour, other_shape, background = match.groups()
    shapes = (DemandedShape(shape, colour, size),)
    if relation:
        shapes += (DemandedShape(other_shape, other_colour, other_size),)
    return Demand(shapes, _PLACES_BY_PHRASE.get(phrase), relation, background, style)


def is_scene_prompt(prompt: str) -> bool:
    """Say whether `parse` accepts a prompt."""
    return _PROMPT.fullmatch(prompt) is not None


def content_of(demand: Demand) -> str:
    """Return the prompt without style and sizes, with one wording for all prompts that ask for the same content.

    "A right of B" becomes "B left of A" and "A below B" becomes "B above A".
    """
    shapes, relation = tuple(replace(shape, size=None) for shape in demand.shapes), demand.relation
    if relation in ("right of", "below"):
        shapes, relation = shapes[::-1], _MIRRORED[relation]
    return str(replace(demand, shapes=shapes, relation=relation, style=None))


def split_of(demand: Demand) -> Literal["train", "heldout"]:
    """Return the split of a prompt; it depends on the content alone, not on size and style words."""
    digest = hashlib.sha256(content_of(demand).encode()).digest()
    return "heldout" if int.from_bytes(digest[:8]) < HELDOUT_SHARE * 2**64 else "train"


@cache
def _contents(split: str) -> tuple[list[Demand], np.ndarray]:
    """Return all demands of a split without sizes and style, and the probability of drawing each."""
    nouns = [DemandedShape(shape, colour, None) for shape, colour in itertools.product(SHAPES, COLOURS)]
    singles = itertools.product([(noun,) for noun in nouns], PLACES, [None], BACKGROUNDS, [None])
    pairs = itertools.product(itertools.permutations(nouns, 2), [None], RELATIONS, BACKGROUNDS, [None])
    contents = [
        demand for demand in itertools.starmap(Demand, itertools.chain(singles, pairs)) if split_of(demand) == split
    ]
    single = np.array([demand.relation is None for demand in contents])
    return contents, np.where(single, SINGLE_SHARE / single.sum(), (1 - SINGLE_SHARE) / (~single).sum())


def prompts(split: Literal["train", "heldout"], n: int, seed: int) -> list[str]:
    """Draw n distinct prompts without style words.

    The contents of "train" and "heldout" prompts are disjoint. Preference data and training prompts are drawn from
    "train", evaluation prompts from "heldout".

    Raises:
        ValueError: the split is unknown or holds fewer than n prompts.
    """
    if split not in ("train", "heldout"):
        raise ValueError(f"split={split!r} is unknown; available: train, heldout")
    contents, probabilities = _contents(split)
    num_available = sum((1 + len(SIZES)) ** len(content.shapes) for content in contents)
    if n > num_available:
        raise ValueError(f"n={n} distinct prompts were asked for, but the {split} split holds {num_available}")
    rng = np.random.default_rng(seed)
    drawn: dict[str, None] = {}  # a set that keeps the order
    while len(drawn) < n:
        for index in rng.choice(len(contents), size=n, p=probabilities):
            content = contents[index]
            drawn[str(replace(content, shapes=tuple(_with_size(shape, rng) for shape in content.shapes)))] = None
    return list(drawn)[:n]


def _with_size(shape: DemandedShape, rng: np.random.Generator) -> DemandedShape:
    if rng.random() < SIZE_OMITTED:
        return shape
    return replace(shape, size=SIZES[rng.integers(len(SIZES))])
