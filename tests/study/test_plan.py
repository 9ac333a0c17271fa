"""Raters see everything equally often, on either side alike, and checks among it."""

from collections import Counter
from itertools import pairwise

import pytest

from alignbench.study.plan import ShownImage, Task, tasks
from alignbench.votes.presets import PRESETS

MANY = {f"p{number:02d}": f"prompt {number}" for number in range(20)}
OVERALL, APPEAL, ALIGNMENT = PRESETS["smpo"].questions


@pytest.fixture
def study(world):
    for method in ("base", "dpo", "kto"):
        world.run(method, MANY)
    return world.study("base", "dpo", "kto")


def runs(task):
    return frozenset(shown.run for shown in task.images)


def test_every_pair_of_every_prompt_is_shown_once(study):
    shown = [task for task in tasks(study, 0) if task.check is None]
    assert Counter(Counter((task.prompt_id, runs(task)) for task in shown).values()) == {1: 3 * 20}


def test_sides_are_balanced_for_each_pair_and_turned_for_other_raters(study):
    lists = [[task for task in tasks(study, rater) if task.check is None] for rater in range(6)]
    for shown in lists:
        assert set(Counter((task.images[0].run, task.images[1].run) for task in shown).values()) == {10}
    left = [{(task.prompt_id, runs(task)): task.images[0].run for task in shown} for shown in lists]
    for one, other in pairwise(left):
        assert 15 < sum(one[key] == other[key] for key in one) < 45  # of 60; 30 is chance


def test_orders_differ_between_raters_and_not_between_calls(study):
    assert tasks(study, 0) == tasks(study, 0)
    orders = [[(task.prompt_id, runs(task)) for task in tasks(study, rater)] for rater in range(3)]
    assert orders[0] != orders[1] != orders[2]
    prompts = [prompt_id for prompt_id, _ in orders[0]]
    assert sum(first == second for first, second in pairwise(prompts)) < 15  # the pairs of a prompt are apart


def test_blocks_of_prompts_are_seen_equally_often(world):
    for method in ("base", "dpo"):
        world.run(method, MANY)
    study = world.study("base", "dpo", prompts_per_rater=7)
    seen = Counter()
    for rater in range(9):
        own = {task.prompt_id for task in tasks(study, rater) if task.check is None}
        assert len(own) == 7
        seen.update(own)
        assert max(seen.values()) - min(seen[key] for key in MANY) <= 1


def test_base_alone_is_compared_where_asked(world):
    study = world.study("base", "dpo", "kto", pairs="base")
    assert {
        len([run for run in runs(task) if run.startswith("base")]) for task in tasks(study, 0) if not task.check
    } == {1}


def test_checks_are_spread_and_of_both_kinds(study):
    shown = tasks(study, 0)
    places = [place for place, task in enumerate(shown) if task.check]
    assert len(places) == study.study.checks_per_rater == 6
    assert [sum(place // 11 == stretch for place in places) for stretch in range(6)] == [1] * 6
    kinds = Counter(task.check for task in shown)
    assert kinds["same"] == kinds["damaged"] == 3
    for task in shown:
        assert (len(runs(task)) == 1) == (task.check is not None)
        assert sum(image.damaged for image in task.images) == (task.check == "damaged")


def test_grades_show_every_image_once_and_damaged_ones(world):
    study = world.study("base", "dpo", preset="srpo")
    shown = tasks(study, 0)
    counting = Counter((task.prompt_id, task.images) for task in shown if not task.check)
    assert len(counting) == sum(counting.values()) == 8
    assert [task.images[0].damaged for task in shown if task.check] == [True] * 4


def test_checks_know_what_passes():
    same = Task("p0", (ShownImage("a"), ShownImage("a")), "same")
    damaged = Task("p0", (ShownImage("a", damaged=True), ShownImage("a")), "damaged")
    graded = Task("p0", (ShownImage("a", damaged=True),), "damaged")
    answers = ("left", "tie", "right")
    assert [same.passes(OVERALL, answer) for answer in answers] == [False, True, False]
    assert [damaged.passes(APPEAL, answer) for answer in answers] == [False, False, True]
    assert [damaged.passes(ALIGNMENT, answer) for answer in answers] == [False, True, True]
    assert [graded.passes(OVERALL, grade) for grade in "1234"] == [True, True, False, False]
    assert Task("p0", (ShownImage("a"), ShownImage("b"))).passes(OVERALL, "left") is None
