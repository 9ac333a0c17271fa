"""The rules of GenEval on boxes made by hand, on both sides of every threshold."""

import math

import pytest

from evaluators.geneval_rules import COLOURS, direction, kept, published, soft, strict
from evaluators.networks.mask2former import DetectedObject


def found(score, box=(0, 0, 10, 10)):
    return DetectedObject(0, score, box)


def one_hot(**of_boxes):
    """Return colours by the left end of the box: `one_hot(red=0, blue=50)`."""
    by_left = {left: name for name, left in of_boxes.items()}
    return lambda one, name: [float(colour == by_left[one.box[0]]) for colour in COLOURS]


def no_colours(one, name):
    raise AssertionError("no colour is asked for")


def annotation(*include, tag="single_object", exclude=()):
    return {"tag": tag, "include": list(include), "exclude": list(exclude)}


def clause(name, count=1, **more):
    return {"class": name, "count": count, **more}


CAT = annotation(clause("cat"))


# ---- objects and numbers


@pytest.mark.parametrize(("score", "expected"), [(0.3, 0), (math.nextafter(0.3, 1), 1), (0.31, 1), (0.29, 0)])
def test_a_single_object_needs_a_score_strictly_above_the_threshold(score, expected):
    verdict = published(CAT, {"cat": [found(score)]}, no_colours)
    assert verdict.score == expected
    assert verdict.margin == pytest.approx(abs(score - 0.3), abs=1e-12)
    assert verdict.reasons == ([] if expected else ["expected cat >= 1, found 0"])


def test_nothing_found_is_wrong_by_the_whole_threshold():
    verdict = published(CAT, {"dog": [found(0.9)]}, no_colours)
    assert (verdict.score, verdict.margin) == (0, 0.3)


def test_two_objects_need_both_and_the_margin_is_that_of_the_one_that_decides():
    both = annotation(clause("cat"), clause("dog"), tag="two_object")
    assert published(both, {"cat": [found(0.9)], "dog": [found(0.32)]}, no_colours).margin == pytest.approx(0.02)
    wrong = published(both, {"cat": [found(0.31)], "dog": [found(0.25)]}, no_colours)
    assert wrong.score == 0
    assert wrong.margin == pytest.approx(0.05), "the cat is nearer, but only the dog can make it right"


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.95, 0.91], 1),
        ([0.95, 0.9], 0),  # one of them is not above 0.9
        ([0.95, 0.94, 0.91], 0),  # three are excluded
        ([0.95, 0.94, 0.9], 1),
    ],
)
def test_counting_has_a_higher_threshold_and_excludes_one_more(scores, expected):
    two = annotation(clause("cat", 2), tag="counting", exclude=[clause("cat", 3)])
    assert published(two, {"cat": [found(score) for score in scores]}, no_colours).score == expected


def test_more_objects_than_asked_for_do_not_matter_unless_they_are_excluded():
    assert published(CAT, {"cat": [found(0.9)] * 5}, no_colours).score == 1


def test_objects_are_the_sixteen_most_confident_by_falling_score():
    scores = [0.31 + 0.01 * number for number in range(20)]
    assert [one.score for one in kept([found(score) for score in scores], 0.3)] == sorted(scores, reverse=True)[:16]
    assert soft(CAT, {"cat": [found(0.9)] * 20}, no_colours).score == 1 - 15  # and not 1 - 19


# ---- colours


RED_CAT = annotation(clause("cat", color="red"), tag="colors")


def test_the_colour_of_the_most_confident_object_counts():
    objects = {"cat": [found(0.5, (50, 0, 60, 10)), found(0.9)]}
    assert published(RED_CAT, objects, one_hot(red=0, blue=50)).score == 1
    wrong = published(RED_CAT, objects, one_hot(red=50, blue=0))
    assert (wrong.score, wrong.reasons) == (0, ["expected red cat, found blue"])


@pytest.mark.parametrize(("red", "blue", "expected"), [(0.51, 0.49, 1), (0.49, 0.51, 0)])
def test_the_margin_of_a_colour_is_the_gap_of_probabilities(red, blue, expected):
    probabilities = [{"red": red, "blue": blue}.get(colour, 0.0) for colour in COLOURS]
    verdict = published(RED_CAT, {"cat": [found(0.9)]}, lambda *_: probabilities)
    assert verdict.score == expected
    assert verdict.margin == pytest.approx(0.02)


def test_all_objects_of_a_clause_need_the_colour():
    two = annotation(clause("cat", 2, color="red"), tag="colors")
    objects = {"cat": [found(0.9), found(0.8, (50, 0, 60, 10))]}
    assert published(two, objects, lambda *_: [1.0] + [0.0] * 9).score == 1
    assert published(two, objects, one_hot(red=0, blue=50)).score == 0


def test_two_colours_are_each_of_its_own_object():
    both = annotation(clause("cat", color="red"), clause("dog", color="blue"), tag="color_attr")
    objects = {"cat": [found(0.9)], "dog": [found(0.9, (50, 0, 60, 10))]}
    assert published(both, objects, one_hot(red=0, blue=50)).score == 1
    assert published(both, objects, one_hot(blue=0, red=50)).score == 0


# ---- positions


def position(relation):
    return annotation(clause("dog"), clause("cat", position=[relation, 0]), tag="position")


def at(x, y, size=10):
    return found(0.9, (x, y, x + size, y + size))


@pytest.mark.parametrize(
    ("x", "y", "relations"),
    [
        (100, 0, {"right of"}),
        (-100, 0, {"left of"}),
        (0, 100, {"below"}),
        (0, -100, {"above"}),
        (100, 100, {"right of", "below"}),
        (0, 0, set()),  # equal centres
        (2, 0, set()),  # 2 pixels, which a tenth of both sizes takes away
        (4, 0, set()),  # (4 - 2) / 4 is exactly one half
        (4.01, 0, {"right of"}),
    ],
)
def test_relations_of_two_boxes_of_ten_pixels(x, y, relations):
    objects = {"dog": [at(0, 0)], "cat": [at(x, y)]}
    holding = {
        one for one in ("left of", "right of", "above", "below")
        if published(position(one), objects, no_colours).score
    }  # fmt: skip
    assert holding == relations


def test_directions_are_shares_of_the_unreduced_distance():
    dx, dy = direction((30, 40, 40, 50), (0, 0, 10, 10))
    assert (dx, dy) == pytest.approx(((30 - 2) / 50, (40 - 2) / 50))
    assert direction((2.0005, 0, 12.0005, 10), (0, 0, 10, 10)) == (0, 0), "less than a thousandth of a pixel is left"


def test_the_margin_of_a_position_is_its_share_less_one_half():
    verdict = published(position("right of"), {"dog": [at(0, 0)], "cat": [at(4.1, 0)]}, no_colours)
    assert (verdict.score, verdict.margin) == (1, pytest.approx(2.1 / 4.1 - 0.5))


def test_every_pair_of_objects_needs_the_relation():
    two = annotation(clause("dog", 2), clause("cat", position=["right of", 0]), tag="position")
    objects = {"dog": [at(0, 0), at(200, 0)], "cat": [at(100, 0)]}
    assert published(two, objects, no_colours).score == 0
    assert published(two, {**objects, "dog": [at(0, 0), at(20, 0)]}, no_colours).score == 1


def test_a_target_of_another_colour_is_no_target():
    target = annotation(clause("dog", color="red"), clause("cat", position=["right of", 0]), tag="position")
    objects = {"dog": [at(0, 0)], "cat": [at(100, 0)]}
    assert published(target, objects, one_hot(red=0)).score == 1
    wrong = published(target, objects, one_hot(blue=0))
    assert wrong.reasons == [
        "expected red dog, found blue",
        "expected cat right of clause 1, which does not hold",
    ]


# ---- strict and soft


@pytest.mark.parametrize(("number", "is_right", "score"), [(0, 0, 0), (1, 0, 0.5), (2, 1, 1), (3, 0, 0.5), (6, 0, -1)])
def test_strict_asks_for_exactly_the_number_and_soft_grades_it(number, is_right, score):
    two = annotation(clause("cat", 2))
    objects = {"cat": [found(0.9)] * number}
    assert strict(two, objects, no_colours).score == is_right
    assert soft(two, objects, no_colours).score == score
    assert published(two, objects, no_colours).score == float(number >= 2)


def test_strict_and_soft_do_not_read_what_is_excluded():
    no_dog = annotation(clause("cat"), exclude=[clause("dog", 1)])
    objects = {"cat": [found(0.9)], "dog": [found(0.9)]}
    assert (published(no_dog, objects, no_colours).score, strict(no_dog, objects, no_colours).score) == (0, 1)


def test_the_strict_margin_sees_the_object_too_many():
    verdict = strict(CAT, {"cat": [found(0.9), found(0.29)]}, no_colours)
    assert (verdict.score, verdict.margin) == (1, pytest.approx(0.01))
    assert soft(CAT, {"cat": [found(0.9)] * 3 + [found(0.29)]}, no_colours).margin == pytest.approx(0.01)


def test_soft_colours_are_the_share_of_right_ones_and_a_wrong_number_has_none():
    two = annotation(clause("cat", 2, color="red"), tag="colors")
    pair = [found(0.9), found(0.8, (50, 0, 60, 10))]
    assert soft(two, {"cat": pair}, one_hot(red=0, blue=50)).score == (1 + 0.5) / 2
    assert soft(two, {"cat": pair[:1]}, no_colours).score == (0.5 + 0) / 2


def test_a_failed_position_adds_a_zero_and_a_one_to_the_soft_score():
    right, left = {"dog": [at(0, 0)], "cat": [at(100, 0)]}, {"dog": [at(0, 0)], "cat": [at(-100, 0)]}
    assert soft(position("right of"), right, no_colours).score == 1
    assert soft(position("right of"), left, no_colours).score == (1 + 1 + 0 + 1) / 4
    assert soft(position("right of"), {"cat": [at(100, 0)]}, no_colours).score == (0 + 1 + 0) / 3, "without a target"
    assert soft(position("right of"), {"dog": [at(0, 0)]}, no_colours).score == (1 + 0 + 0) / 3, "without an object"
