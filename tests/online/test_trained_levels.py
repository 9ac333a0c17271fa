"""Which of the sampler's levels are trained."""

import pytest
import torch

from alignbench.context import Context
from alignbench.diffusion.noise_levels import NoiseLevels
from alignbench.diffusion.schedule import Level
from alignbench.online.trained_levels import TrainedLevels


def levels(**changes):
    values = {"num": 9, "first": 0, "stop": 10, "draw": "shuffled", "shared": False}
    return TrainedLevels(**values | changes)


def drawn(chosen, num=200, step=0):
    sigma = torch.linspace(1, 0, 15, dtype=torch.float64)
    noise_levels = NoiseLevels(torch.arange(14).double(), Level(1 - sigma, sigma))
    return chosen.timesteps(torch.arange(num), noise_levels, Context(step, 0, 4)).long()


def test_each_image_skips_one_level_and_has_an_order_of_its_own():
    found = drawn(levels())
    assert all(len(set(row.tolist())) == 9 for row in found)
    assert len({tuple(row.tolist()) for row in found}) > 190
    skipped = 45 - found.sum(1)
    assert sorted(set(skipped.tolist())) == list(range(10))


def test_shared_levels_are_those_of_every_image_and_new_each_step():
    found = drawn(levels(num=4, stop=7, shared=True))
    assert (found == found[0]).all()
    assert int(found.max()) < 7
    assert any((drawn(levels(num=4, stop=7, shared=True), step=step) != found).any() for step in range(1, 4))


def test_stratified_levels_come_one_from_each_part():
    """AWM: 14 levels without the first and the last two, in six parts."""
    found = drawn(levels(num=6, first=1, stop=12, draw="stratified"))
    parts = [{1}, {2, 3}, {4, 5}, {6, 7}, {8, 9}, {10, 11}]
    assert [set(column.tolist()) for column in found.unbind(1)] == parts


def test_a_draw_depends_on_the_image_alone():
    assert (drawn(levels(), num=3) == drawn(levels(), num=200)[:3]).all()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num": 11}, "method.levels.num=11 is more than the levels from"),
    ],
)
def test_what_cannot_be_drawn_is_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        levels(**changes)


def test_levels_that_the_sampler_does_not_have_are_refused():
    with pytest.raises(ValueError, match=r"method\.levels\.stop=10 must be at most method\.num_rollout_steps=8"):
        levels().check(8)
