"""A star says that another training would show it again: p-values are over prompts and training seeds."""

import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from alignbench.report.display import sections
from alignbench.report.figures import significance
from alignbench.report.markdown import markdown
from alignbench.report.tables import build
from alignbench.statistics.intervals import compare
from alignbench.statistics.resampling import Resampling
from alignbench.statistics.significance import Level, levels_test, smallest_significant
from benchmarks.significance import World, family_wise_error, simulate

NUM = 256
PROMPTS = {f"p{i:03d}": f"prompt {i}" for i in range(NUM)}


def scores_that_win(rates):
    """Return scores over 0 by a method with one row a training seed, which wins so many percent of the prompts."""
    return np.array([np.where(np.arange(NUM) < round(NUM * rate / 100), 1.0, -1.0) for rate in rates])


def p_values(rates, trained=True):
    result = compare(scores_that_win(rates), np.zeros(NUM), Resampling(PROMPTS, 200), [trained, False])
    return result.p_win, result.p_win_weights


def test_seeds_that_disagree_have_no_star_however_many_prompts_there_are():
    p_win, p_weights = p_values([90, 60, 50])
    assert p_weights < 1e-6
    assert p_win > 0.05


def test_seeds_that_agree_have_one():
    p_win, _ = p_values([79, 80, 81, 80, 80])
    assert p_win < 1e-3


def test_one_training_seed_cannot_tell():
    p_win, p_weights = p_values([80])
    assert math.isnan(p_win)
    assert p_weights < 1e-6


def test_images_that_no_training_made_need_no_seeds():
    p_win, p_weights = p_values([80], trained=False)
    assert p_win == p_weights < 1e-6


def test_the_p_value_is_that_of_a_t_test_where_prompts_add_little():
    """Gains that are equal on all prompts leave the variance over seeds alone."""
    gains = np.array([0.1, 0.4, 0.2])
    result = compare(np.repeat(gains[:, None], NUM, axis=1), np.zeros(NUM), Resampling(PROMPTS, 200))
    assert result.p_gain == pytest.approx(ttest_1samp(gains, 0).pvalue)


@pytest.mark.parametrize("num_seeds", [2, 3, 5, 10])
@pytest.mark.parametrize("seed_effect", [0, 3, 8])
def test_equal_methods_get_a_star_in_at_most_five_percent_of_families(num_seeds, seed_effect):
    p = simulate(World(seed_effect, num_seeds, 256, 1), comparisons=1000)
    error, standard_error = family_wise_error(p, size=6)
    assert error <= 0.05 + 3 * standard_error


@pytest.mark.parametrize("num_images", [1, 4])
def test_weights_as_they_are_get_one_in_at_most_five_percent(num_images):
    p = simulate(World(0, 1, 100, num_images), comparisons=400, of_weights=True)
    error, standard_error = family_wise_error(p, size=6)
    assert error <= 0.05 + 3 * standard_error


def test_the_simulation_tests_as_the_program_does():
    world = World(3, 4, 30, 2, win_rate=60)
    signs = world.signs(np.random.default_rng(5))
    clusters = Resampling(np.repeat(np.arange(30), 2), 50)
    p_win = compare(signs[:, 0].reshape(4, 60), np.zeros(60), clusters, [True, False]).p_win
    assert world.p_value(np.random.default_rng(5)) == pytest.approx(p_win)


def test_the_smallest_significant_figure_has_the_p_value_that_was_asked_for():
    levels = [Level(0.01, 100), Level(0.02, 4)]
    assert levels_test(smallest_significant(levels, 0.01), levels) == pytest.approx(0.01)


@pytest.fixture
def table(world):
    """Base; sft, trained three times; dpo, trained once. Both win 80 %."""
    options = {"prompts": PROMPTS, "groups": {}}
    world.run("base", [0.0] * NUM, **options)
    for seed, scores in enumerate(scores_that_win([78, 82, 80])):
        world.run("sft", list(scores), seed=seed, **options)
    world.run("dpo", list(scores_that_win([80])[0]), **options)
    return build(world.root)


def test_the_table_shows_in_parentheses_what_holds_for_these_weights_alone(table):
    [section] = sections(table)
    shown = {row["method"]: significance(row) for row in section.rows.values()}
    assert shown == {"base": "", "sft": "**", "dpo": "(***)"}


def test_the_table_says_what_so_few_seeds_can_show(table):
    text = markdown(table)
    assert "one training seed, which cannot tell" in text
    assert "with 3 training seeds and 1 row tested together, significance needs a win rate about" in text
