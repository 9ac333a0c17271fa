import numpy as np
import pytest

from alignbench.statistics.power import Spread
from alignbench.statistics.significance import Level, levels_test, sign_flip_test


@pytest.mark.parametrize(
    ("win_rate", "rho", "expected"),
    [
        (0.52, 0.1, [4898, 2694, 1592, 1041]),
        (0.53, 0.3, [2173, 1413, 1032, 842]),
        (0.55, 0.6, [778, 622, 544, 506]),
        (0.60, 0.1, [189, 104, 62, 41]),
    ],
)
def test_prompts_needed_are_those_of_the_closed_form(win_rate, rho, expected):
    """(1.960 + 0.842)^2 var(w) / d^2 with 1, 2, 4 and 8 images a prompt."""
    assert [Spread(rho).prompts_needed(win_rate, images) for images in (1, 2, 4, 8)] == expected


def test_ties_lower_variance_and_gain_alike_and_comparisons_cost_prompts():
    """By hand: t 0.5, win rate 0.6: decisive 0.7, total 0.5 * 0.21 + 0.5 * 0.5 * 0.04 = 0.115."""
    assert Spread(0.3, ties=0.5).prompt_variance(0.6) == pytest.approx(0.115)
    assert Spread(0.3, ties=0.5).prompt_variance(0.6, 10**9) == pytest.approx(0.25 * 0.3 * 0.21)
    assert Spread().prompts_needed(0.55, comparisons=6) / Spread().prompts_needed(0.55) == pytest.approx(1.54, abs=0.01)


@pytest.mark.parametrize("seeds", [1, 5])
def test_the_smallest_win_rate_is_the_one_that_so_many_prompts_show(seeds):
    spread = Spread(0.3, 0.1, 0.02)
    smallest = spread.smallest_win_rate(800, 2, seeds)
    assert spread.power(smallest, 800, 2, seeds) == pytest.approx(0.8, abs=1e-6)
    assert spread.prompts_needed(smallest + 1e-6, 2, seeds) <= 800 < spread.prompts_needed(smallest - 0.001, 2, seeds)


def test_no_number_of_prompts_makes_up_for_seeds():
    spread = Spread(seed_deviation=0.08)
    assert spread.prompts_needed(0.55, seeds=3) is None
    assert spread.smallest_win_rate(10**9, seeds=2, comparisons=126) is None
    assert spread.prompts_needed(0.7, seeds=10) is not None


def draw(rng, num, prompts, images, win_rate, rho, ties, seeds=1, deviation=0.0):
    """Return 1, 0 and -1 for images won, equal and lost, [num, seeds, prompts, images]: beta-distributed prompts."""
    mean = 0.5 + (win_rate - 0.5) / (1 - ties)  # of images that are won or lost
    total = 1 / rho - 1
    of_prompt = rng.beta(mean * total, (1 - mean) * total, (num, 1, prompts, 1))
    of_seed = deviation * rng.standard_normal((num, seeds, 1, 1))
    signs = np.where(rng.random((num, seeds, prompts, images)) < of_prompt + of_seed, 1, -1)
    return np.where(rng.random(signs.shape) < ties, 0, signs)


@pytest.mark.parametrize(("images", "ties"), [(1, 0.0), (4, 0.0), (2, 0.3)])
def test_so_many_prompts_find_the_difference_in_four_of_five_simulations(images, ties):
    rng = np.random.default_rng(images)
    prompts = Spread(0.3, ties).prompts_needed(0.56, images)
    signs = draw(rng, 600, prompts, images, 0.56, 0.3, ties)[:, 0]
    found = [sign_flip_test(values, num_flips=499) < 0.05 for values in signs.sum(axis=2)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.05), "three standard errors of 600 draws"


def test_power_over_seeds_is_that_of_the_test_over_prompts_and_seeds():
    rng = np.random.default_rng(0)
    prompts, seeds, deviation = 300, 5, 0.05
    signs = draw(rng, 800, prompts, 1, 0.62, 0.3, 0.0, seeds, deviation)[..., 0]
    found = []
    for one in signs:
        values = one.mean(axis=0)
        levels = [Level.of_clusters(values, np.ones(prompts)), Level.of_seeds(one.mean(axis=1))]
        found.append(levels_test(values.mean(), levels) < 0.05)
    assert np.mean(found) == pytest.approx(Spread(0.3, 0.0, deviation).power(0.62, prompts, 1, seeds), abs=0.05)


def test_a_finished_comparison_gives_back_what_it_was_drawn_with():
    rng = np.random.default_rng(1)
    signs = draw(rng, 1, 4000, 4, 0.6, 0.3, 0.2, 8, 0.05)[0]
    found = Spread.of(signs.reshape(8, -1), np.repeat(np.arange(4000), 4))
    assert found.ties == pytest.approx(0.2, abs=0.01)
    assert found.correlation == pytest.approx(0.3, abs=0.04)
    assert 0.02 < found.seed_deviation < 0.08


def test_equal_seeds_have_no_deviation_beyond_that_of_their_prompts():
    rng = np.random.default_rng(2)
    deviations = [
        Spread.of(draw(rng, 1, 200, 1, 0.55, 0.3, 0.0, 10)[0, :, :, 0], np.arange(200)).seed_deviation
        for _ in range(40)
    ]
    assert np.sqrt(np.mean(np.square(deviations))) < 0.02


def test_what_one_image_and_one_seed_cannot_tell_is_unknown():
    found = Spread.of([1, -1, 0, 1], ["a", "b", "c", "d"])
    assert found.ties == 0.25
    assert np.isnan([found.correlation, found.seed_deviation]).all()
