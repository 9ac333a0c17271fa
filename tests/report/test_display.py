import math

import pytest

from alignbench.report.display import mean_ranks, sections
from alignbench.report.figures import number, significance
from alignbench.report.tables import build
from alignbench.text import duration


@pytest.mark.parametrize(
    ("value", "interval", "scale", "text"),
    [
        (0.214, (0.2127, 0.2153), 100, "21.40 [21.27, 21.53]"),
        (5.39, (5.1, 5.7), 1, "5.39 [5.10, 5.70]"),
        (1234.5, (1100, 1300), 1, "1234 [1100, 1300]"),
        (0.5, (0.5, 0.5), 1, "0.500 [0.500, 0.500]"),
        (0.5, (math.nan, math.nan), 1, "0.500"),
    ],
)
def test_figures_show_as_many_digits_as_their_interval_supports(value, interval, scale, text):
    assert number(value, interval, scale) == text


@pytest.mark.parametrize(
    ("p_value", "text"), [(0.0005, "***"), (0.001, "**"), (0.02, "*"), (0.05, "n.s."), (1.0, "n.s."), (math.nan, "")]
)
def test_what_is_not_significant_is_said_to_be_so(p_value, text):
    assert significance({"p_win": p_value, "p_win_weights": math.nan}) == text


def test_stars_of_one_training_seed_stand_in_parentheses():
    assert significance({"p_win": math.nan, "p_win_weights": 1e-9}) == "(***)"
    assert significance({"p_win": math.nan, "p_win_weights": 0.5}) == "n.s."
    assert significance({"p_win": 0.2, "p_win_weights": 1e-9}) == "n.s."


@pytest.mark.parametrize(("seconds", "text"), [(45.2, "45 s"), (750, "12 min 30 s"), (3900, "1 h 05 min")])
def test_durations_are_readable(seconds, text):
    assert duration(seconds) == text


def test_mean_ranks_are_over_evaluators_that_no_method_trained_on(small_table):
    """dpo trained on clip, so that the rank of all is by the oracle alone, where base is first."""
    [section] = sections(build(small_table.root))
    assert mean_ranks(section) == {"base": 1.0, "sft": 2.0, "dpo": 3.0}
    assert section.methods == ["base", "sft", "dpo"]


def test_methods_of_equal_median_share_a_rank(world):
    for method in ("base", "sft"):
        world.run(method, [1, 2, 3, 4])
    [section] = sections(build(world.root))
    assert mean_ranks(section) == {"base": 1.5, "sft": 1.5}
