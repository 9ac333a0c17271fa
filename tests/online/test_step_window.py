"""Which steps of a sampling are random, and which are trained."""

from collections import Counter

import pytest

from alignbench.context import Context
from alignbench.online.step_window import StepWindow


def window(**changes):
    values = {"first": 0, "stop": None, "size": None, "choice": "fixed", "rounds_per_position": 1, "num_trained": None}
    return StepWindow(**values | changes)


def positions(chosen, num_steps, num_rounds):
    return [chosen.random_steps(num_steps, number, Context(number, 0, 4)) for number in range(num_rounds)]


def test_all_steps_but_the_last_are_random_by_default():
    assert positions(window(), 10, 1) == [list(range(9))]


def test_a_fixed_window_is_the_first_steps():
    assert positions(window(first=1, size=3), 10, 2) == [[1, 2, 3]] * 2


def test_a_progressive_window_passes_all_steps_and_begins_again():
    """MixGRPO: 25 steps, a window of 4 that moves on after 25 rounds and never reaches the last two steps."""
    found = positions(window(stop=23, size=4, choice="progressive", rounds_per_position=25), 25, 24 * 25)
    assert all(len({tuple(steps) for steps in found[start : start + 25]}) == 1 for start in range(0, 600, 25))
    each = found[::25]
    assert [steps[0] for steps in each] == [*range(23), 0]
    assert [len(steps) for steps in each] == [4] * 20 + [3, 2, 1] + [4]
    assert max(map(max, each)) == 22


def test_a_random_window_is_in_one_piece_and_everywhere():
    found = positions(window(stop=5, size=2, choice="random"), 8, 400)
    starts = Counter(steps[0] for steps in found)
    assert all(steps == [steps[0], steps[0] + 1] for steps in found)
    assert set(starts) == {0, 1, 2, 3}
    assert min(starts.values()) > 70


def test_scattered_steps_lie_anywhere_in_the_window():
    found = positions(window(first=1, stop=6, size=3, choice="scattered"), 10, 400)
    assert all(len(set(steps)) == 3 and steps == sorted(steps) for steps in found)
    each = Counter(step for steps in found for step in steps)
    assert set(each) == {1, 2, 3, 4, 5}
    assert min(each.values()) > 200  # of 240 expected


def test_trained_steps_are_some_of_the_random_ones_alike_often():
    """DanceGRPO trains 9 of 15."""
    chosen = window(num_trained=9)
    found = [chosen.trained_steps(chosen.random_steps(16, n, Context(n, 0, 4)), Context(n, 0, 4)) for n in range(400)]
    assert all(len(set(steps)) == 9 and steps == sorted(steps) for steps in found)
    each = Counter(step for steps in found for step in steps)
    assert set(each) == set(range(15))
    assert 200 < min(each.values()) <= max(each.values()) < 280  # of 240 expected


def test_all_random_steps_are_trained_by_default():
    assert window().trained_steps([2, 3, 7], Context(0, 0, 4)) == [2, 3, 7]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"first": 3, "stop": 3}, r"method\.window\.stop=3 must be above method\.window\.first=3"),
        ({"size": 2, "num_trained": 3}, r"method\.window\.num_trained=3 must be at most method\.window\.size=2"),
        ({"stop": 11}, r"method\.window\.stop=11 must be at most method\.num_rollout_steps=10"),
        ({"first": 5, "size": 5}, r"method\.window\.size=5 is more than the steps from .*=5 to method\.window\.stop=9"),
        ({"num_trained": 10}, r"method\.window\.num_trained=10 is more than the steps"),
        ({"first": 9}, r"method\.window\.first=9 leaves no step of method\.num_rollout_steps=10 but the last"),
    ],
)
def test_a_window_that_a_sampling_does_not_have_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        window(**changes).check(10)
