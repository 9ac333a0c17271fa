import dataclasses
import math

import pytest

from alignbench.report.published_tables.values import PublishedValue
from alignbench.reproduce.rows import Figure
from alignbench.reproduce.verdict import Measured, Tolerance, judge, overall, tolerance_of
from alignbench.statistics.resampling import Estimate

PRINTED = PublishedValue(
    paper="Somebody", arxiv_id="0000.00000", table="1", model="sd15", method="dpo", variant="", opponent="",
    prompt_set="hpdv2", evaluator="pickscore", evaluator_version="", statistic="median", value=22.0, scale=100.0,
    start="base", guidance_scale=7.5, noise="constant", obstacle="",
)  # fmt: skip
WON = dataclasses.replace(PRINTED, statistic="win_rate", opponent="base", value=80.0)


def figure(value=22.0, decimals=2, printed=PRINTED):
    return Figure(dataclasses.replace(printed, value=value), decimals)


def verdict(value, low, high, printed=None, num_prompts=3200, **more):
    [one] = judge([Measured(printed or figure(), Estimate(value, low, high), **more)], num_prompts)
    return one


def test_a_median_is_allowed_both_sampling_errors_and_half_a_digit():
    """Ours 22.1 with half-widths of 0.03 above and 0.04 below, where 22.0 lies: 0.04 sqrt(2) + 0.005."""
    found = tolerance_of(figure(), Estimate(22.1, 22.06, 22.13), 3200)
    assert (found.ours, found.theirs, found.rounding) == (pytest.approx(0.04), pytest.approx(0.04), 0.005)
    assert found.total == pytest.approx(0.04 * math.sqrt(2) + 0.005)
    assert tolerance_of(figure(22.5), Estimate(22.1, 22.06, 22.13), 3200).ours == pytest.approx(0.03), "the other side"


def test_a_printed_win_rate_has_the_sampling_error_of_a_share():
    """80 % of 400: 1.96 sqrt(0.8 x 0.2 / 400) is 3.92 points."""
    found = tolerance_of(figure(80.0, 1, WON), Estimate(78.0, 75.0, 81.0), 400)
    assert (found.ours, found.theirs, found.rounding) == (3, pytest.approx(3.92, abs=1e-3), 0.05)
    assert found.total == pytest.approx(math.hypot(3, 3.92) + 0.05, abs=1e-3)
    assert tolerance_of(figure(100.0, 1, WON), Estimate(99.0, 98.0, 100.0), 400).theirs == 0


def test_the_boundary_is_reproduced_and_a_step_behind_it_differs():
    """With a half-width of 0 on both sides, the tolerance is half a digit: 22.005 rounds to 22.01 or 22.00."""
    assert verdict(0.22005, 0.22005, 0.22005).verdict == "reproduced"
    assert verdict(0.22006, 0.22006, 0.22006).verdict == "differs"
    edge = 0.04 * math.sqrt(2) + 0.005
    assert verdict((22 + edge) / 100, (22 + edge - 0.04) / 100, 0.3).verdict == "reproduced"
    assert verdict((22.001 + edge) / 100, (22.001 + edge - 0.04) / 100, 0.3).verdict == "differs"


def test_a_figure_that_differs_says_by_how_much_and_what_is_allowed():
    found = verdict(0.215, 0.214, 0.216)
    assert (found.verdict, found.gap) == ("differs", pytest.approx(-0.5))
    assert found.allowed == pytest.approx(0.1 * math.sqrt(2) + 0.005)
    assert found.told == "0.146: sampling error 0.1 here and 0.1 there, rounding 0.005"


def test_what_is_measured_otherwise_is_not_compared_however_close():
    found = verdict(0.22, 0.219, 0.221, obstacles=("guidance 5 here, 7.5 there", "train.max_train_steps=9 here"))
    assert (found.verdict, found.allowed) == ("not comparable", None)
    assert found.told == "guidance 5 here, 7.5 there; train.max_train_steps=9 here"
    assert verdict(0.22, math.nan, math.nan).told == "our figure has no interval; it needs more than one prompt"


def test_a_figure_without_ours_is_not_measured():
    [found] = judge([Measured(figure(), None, missing="no scores by pickscore")], 3200)
    assert (found.verdict, found.gap, found.told) == ("not measured", None, "no scores by pickscore")


def test_intervals_are_widened_so_that_all_figures_of_a_row_hold_together():
    """Five figures: the quantile of 1 - 0.025 / 5 is 2.5758, that of one figure 1.9600."""
    assert Tolerance(3, 4, 0.0, 5).total == pytest.approx(5 * 2.5758 / 1.9600, rel=1e-4)
    assert Tolerance(3, 4, 0.0).total == 5
    ours = Measured(figure(), Estimate(0.2206, 0.2201, 0.2211))
    assert [one.verdict for one in judge([ours] * 1, 3200)] == ["reproduced"]
    near = Measured(figure(), Estimate(0.2208, 0.2203, 0.2213))
    assert judge([near], 3200)[0].verdict == "differs"
    apart = Measured(figure(), Estimate(0.2208, 0.2203, 0.2213), obstacles=("noise",))
    assert judge([near, apart], 3200)[0].verdict == "differs", "what is not compared does not widen"
    assert {one.verdict for one in judge([near] * 5, 3200)} == {"reproduced"}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["reproduced", "not comparable"], "reproduced"),
        (["reproduced", "differs"], "differs"),
        (["not comparable", "not measured"], "not comparable"),
        (["not measured"], "not measured"),
    ],
)
def test_a_row_is_reproduced_if_all_figures_are_that_can_be_compared(values, expected):
    one = verdict(0.22, 0.219, 0.221)
    assert overall([dataclasses.replace(one, verdict=value) for value in values]) == expected
