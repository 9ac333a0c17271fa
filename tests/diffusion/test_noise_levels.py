"""Parts of the levels that a sampling visits."""

import pytest
import torch

from alignbench.diffusion.noise_levels import NoiseLevels
from alignbench.diffusion.schedule import Level

SIGMA = torch.tensor([1.0, 0.8, 0.3, 0.01, 0.002], dtype=torch.float64)  # the end is not quite clean, as DDIM's


@pytest.fixture
def levels():
    return NoiseLevels(1000 * SIGMA[:-1], Level(1 - SIGMA, SIGMA))


def test_steps_have_the_level_after_the_last_of_them(levels):
    part = levels.steps(1, 3)
    assert part.timesteps.tolist() == [800, 300]
    assert part.level.sigma.tolist() == [0.8, 0.3, 0.01]
    assert part.level.alpha.tolist() == (1 - SIGMA[1:4]).tolist()


def test_no_steps_are_one_level(levels):
    assert len(levels.steps(0, 0)) == 0
    assert levels.steps(0, 0).level.sigma.tolist() == [1]


def test_down_to_a_sigma_the_last_step_goes_to_the_end_at_once(levels):
    part = levels.down_to(0.05)
    assert part.timesteps.tolist() == [1000, 800, 300]
    assert part.level.sigma.tolist() == [1.0, 0.8, 0.3, 0.002]
    assert part.level.alpha.tolist() == (1 - SIGMA[[0, 1, 2, 4]]).tolist()


def test_a_level_of_just_that_sigma_is_kept(levels):
    assert levels.down_to(0.3).timesteps.tolist() == [1000, 800, 300]
    assert levels.down_to(0.0).level.sigma.tolist() == SIGMA.tolist()
