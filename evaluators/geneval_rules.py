"""The rules of GenEval: does an image with these detected objects show what the prompt asks for?

An annotation has a `tag` (its task) and lists of clauses, `include` and `exclude`. A clause has a `class`, a `count`,
and possibly a `color` and a `position`: a relation and the number of the earlier clause whose objects it is to.

Source: the published rules are those of `evaluate` in evaluation/evaluate_images.py of djghosh13/geneval (MIT); the
exact ones those of `evaluate_reward` in reward_server/gen_eval.py of yifan123/reward-server.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evaluators.networks.mask2former import DetectedObject

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels, y downwards, far ends exclusive

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
THRESHOLD = 0.3  # a detection with a score above it is an object
COUNTING_THRESHOLD = 0.9  # the same for the task `counting`
MAX_OBJECTS = 16  # of one class
OVERLAP = 0.1  # share of the sizes of two boxes by which their distance is reduced
SMALLEST_OFFSET = 1e-3  # pixels; below it on both axes there is no relation
RELATION_THRESHOLD = 0.5  # a relation holds if its share of the distance is above it

Objects = Mapping[str, Sequence["DetectedObject"]]  # all detections of each class, whatever their scores
Colours = Callable[["DetectedObject", str], Sequence[float]]  # of an object of a class: probability of each of COLOURS


@dataclass(frozen=True)
class Term:
    """One condition.

    Attributes:
        margin: how far the number that decides is from its threshold, in its own unit; below 0 where the condition does
            not hold. None where it fails because another one does.
        reason: what is said of the condition if it does not hold.
    """

    name: str
    holds: bool
    margin: float | None
    reason: str


@dataclass(frozen=True)
class Verdict:
    """What the rules say of an image.

    Attributes:
        score: 1 or 0 for the published and strict rules; a mean of partial scores for the soft ones.
        terms: the conditions that were looked at.
        margin: by how much a number would have to move to change the score: of the published and strict rules the
            largest of those that all have to move together.
    """

    score: float
    terms: tuple[Term, ...]
    margin: float

    @property
    def reasons(self) -> list[str]:
        """Why the image does not show all of the prompt."""
        return [term.reason for term in self.terms if not term.holds]


def published(annotation: Mapping[str, Any], objects: Objects, colours: Colours) -> Verdict:
    """Judge by the rules of GenEval: at least `count` objects of a class, of which the most confident ones count."""
    threshold = threshold_of(annotation)
    terms: list[Term] = []
    groups: list[Sequence[DetectedObject] | None] = []  # the objects of each clause; None where it does not hold
    for clause in annotation["include"]:
        name, count = clause["class"], clause["count"]
        found = kept(objects.get(name, ()), threshold)
        margin = _score_of(objects, name, count) - threshold
        of_clause = [_term(f"{name} >= {count}", len(found) >= count, margin, f"found {len(found)}")]
        if of_clause[0].holds:
            of_clause += _colour_terms(clause, found[:count], colours)
        if "position" in clause and all(term.holds for term in of_clause):
            of_clause += _position_terms(clause, found[:count], groups)
        groups.append(found[:count] if all(term.holds for term in of_clause) else None)
        terms += of_clause
    for clause in annotation.get("exclude", ()):
        name, count = clause["class"], clause["count"]
        found = kept(objects.get(name, ()), threshold)
        margin = threshold - _score_of(objects, name, count)
        terms.append(_term(f"{name} < {count}", len(found) < count, margin, f"found {len(found)}"))
    return _all_hold(terms)


def strict(annotation: Mapping[str, Any], objects: Objects, colours: Colours) -> Verdict:
    """Judge as `published` but for exactly `count` objects of a class, all of which count; `exclude` is not read."""
    terms, _ = _exact(annotation, objects, colours)
    return _all_hold(terms)


def soft(annotation: Mapping[str, Any], objects: Objects, colours: Colours) -> Verdict:
    """Return the mean of partial scores, -14..1: 1 - |count - found| / count of each clause, and so for its colour.

    A clause with another number of objects adds a 0 for its colour or position. A position adds 1 if it holds; if it
    does not, it adds a 0 and that 1 as well, as the published code does.
    """
    terms, partial_scores = _exact(annotation, objects, colours)
    threshold = threshold_of(annotation)
    classes = [clause["class"] for clause in annotation["include"]]
    nearest = [abs(one.score - threshold) for name in classes for one in objects.get(name, ())]
    margins = [abs(term.margin) for term in terms if term.margin is not None]
    return Verdict(sum(partial_scores) / len(partial_scores), tuple(terms), min(nearest + margins))


def _exact(annotation: Mapping[str, Any], objects: Objects, colours: Colours) -> tuple[list[Term], list[float]]:
    """Return the conditions of the strict rules and the partial scores of the soft ones."""
    threshold = threshold_of(annotation)
    terms: list[Term] = []
    partial_scores: list[float] = []
    groups: list[Sequence[DetectedObject] | None] = []
    for clause in annotation["include"]:
        name, count = clause["class"], clause["count"]
        found = kept(objects.get(name, ()), threshold)
        partial_scores.append(1 - abs(count - len(found)) / count)
        margin = min(_score_of(objects, name, count) - threshold, threshold - _score_of(objects, name, count + 1))
        of_clause = [_term(f"{name} = {count}", len(found) == count, margin, f"found {len(found)}")]
        if not of_clause[0].holds:
            partial_scores += [0.0] if "color" in clause or "position" in clause else []
        elif "color" in clause:
            of_colour = _colour_terms(clause, found, colours)
            partial_scores.append(sum(term.holds for term in of_colour) / count)
            of_clause += of_colour
        if "position" in clause and all(term.holds for term in of_clause):
            of_position = _position_terms(clause, found, groups)
            if not all(term.holds for term in of_position):
                partial_scores.append(0.0)
            if groups[clause["position"][1]] is not None:
                partial_scores.append(1.0)
            of_clause += of_position
        groups.append(found if all(term.holds for term in of_clause) else None)
        terms += of_clause
    return terms, partial_scores


# ---- conditions


def threshold_of(annotation: Mapping[str, Any]) -> float:
    """Return the score that a detection must exceed to be an object."""
    return COUNTING_THRESHOLD if annotation["tag"] == "counting" else THRESHOLD


def kept(objects: Sequence["DetectedObject"], threshold: float) -> list["DetectedObject"]:
    """Return the objects of a class with a score above the threshold, at most 16, by falling score."""
    return sorted((one for one in objects if one.score > threshold), key=lambda one: -one.score)[:MAX_OBJECTS]


def direction(a: Box, b: Box) -> tuple[float, float]:
    """Return in which direction a box lies from another, x and y.

    Each is the distance of the centres, reduced by a tenth of the sizes of both boxes on its axis, as a share of the
    unreduced distance of the centres: -1..1, y downwards. Both are 0 where the reduced distance is below 0.001 pixels.
    """
    offset = [(a[axis] + a[axis + 2] - b[axis] - b[axis + 2]) / 2 for axis in (0, 1)]
    sizes = [a[axis + 2] - a[axis] + b[axis + 2] - b[axis] for axis in (0, 1)]
    reduced = [max(abs(one) - OVERLAP * size, 0) for one, size in zip(offset, sizes, strict=True)]
    if max(reduced) < SMALLEST_OFFSET:
        return 0.0, 0.0
    dx, dy = (math.copysign(one, sign) / math.hypot(*offset) for one, sign in zip(reduced, offset, strict=True))
    return dx, dy


def share_towards(relation: str, a: Box, b: Box) -> float:
    """Return how much of the direction of a box from another is towards `left of`, `right of`, `above` or `below`."""
    dx, dy = direction(a, b)
    return {"left of": -dx, "right of": dx, "above": -dy, "below": dy}[relation]


def _score_of(objects: Objects, name: str, rank: int) -> float:
    """Return the score of the detection of a class that has this rank, from 1; 0 where there is none."""
    scores = sorted((one.score for one in objects.get(name, ())), reverse=True)
    return scores[rank - 1] if len(scores) >= rank else 0.0


def _term(name: str, holds: bool, margin: float | None, found: str) -> Term:
    return Term(name, holds, margin, f"expected {name}, {found}")


def _colour_terms(clause: Mapping[str, Any], found: Sequence["DetectedObject"], colours: Colours) -> list[Term]:
    """Return a condition for each object, none where the clause asks for no colour."""
    terms = []
    for one in found if "color" in clause else ():
        probabilities = list(colours(one, clause["class"]))
        wanted = COLOURS.index(clause["color"])
        best = probabilities.index(max(probabilities))
        margin = probabilities[wanted] - max(p for index, p in enumerate(probabilities) if index != wanted)
        terms.append(_term(f"{clause['color']} {clause['class']}", best == wanted, margin, f"found {COLOURS[best]}"))
    return terms


def _position_terms(
    clause: Mapping[str, Any], found: Sequence["DetectedObject"], groups: Sequence[Sequence["DetectedObject"] | None]
) -> list[Term]:
    """Return a condition for each pair of an object and an object of the earlier clause."""
    relation, number = clause["position"]
    name = f"{clause['class']} {relation} clause {number + 1}"
    targets = groups[number]
    if targets is None:
        return [_term(name, False, None, "which does not hold")]
    shares = [share_towards(relation, one.box, target.box) for one in found for target in targets]
    return [
        _term(name, share > RELATION_THRESHOLD, share - RELATION_THRESHOLD, f"found {share:.2f} of the distance")
        for share in shares
    ]


def _all_hold(terms: Sequence[Term]) -> Verdict:
    margins = [term.margin for term in terms if term.margin is not None]
    return Verdict(float(all(term.holds for term in terms)), tuple(terms), abs(min(margins)))
