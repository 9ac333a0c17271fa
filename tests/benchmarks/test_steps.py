"""The benchmark of training steps: its intervals, its counts, and a small run of all it measures."""

import json

import pytest
import torch

from benchmarks.steps import __main__ as steps
from benchmarks.steps.interval import Interval
from benchmarks.steps.meter import Meter
from benchmarks.steps.rows import ROWS
from benchmarks.steps.turns import Measured, Referee, Turns


@pytest.mark.parametrize(
    ("num", "low", "high"),
    [
        (3, 1, 3),  # too few: 1/4 of the time the median lies outside all of them
        (6, 1, 6),  # 2 / 64
        (8, 1, 8),  # 2 / 256; without the ends 2 * 9 / 256 is more than 5 %
        (9, 2, 8),  # 2 * 10 / 512
    ],
)
def test_the_interval_of_a_median_is_that_of_the_sign_test(num, low, high):
    values = list(range(num, 0, -1))
    assert Interval.of(values) == Interval((num + 1) / 2, low, high)


def test_a_backward_pass_is_counted_by_the_innermost_meter():
    outer, inner = Meter(), Meter()
    weight = torch.ones(2, requires_grad=True)
    with outer.counting():
        with inner.counting():
            weight.sum().backward()
        assert (outer.seconds["backward"], inner.seconds["backward"] > 0) == (0, True)
        weight.sum().backward()
    assert outer.seconds["backward"] > 0
    before = outer.total
    weight.sum().backward()
    assert outer.total == before


def test_the_programs_turn_is_what_passes_between_two_calls_but_for_the_turns_of_others(monkeypatch):
    clock = {"now": 0.0}
    monkeypatch.setattr("benchmarks.steps.turns.time.process_time", lambda: clock["now"])

    class Other:
        def turn(self):
            clock["now"] += 5.0
            return 5.0

    program = Turns("alignbench")
    referee = Referee(program, [Other()])  # pyright: ignore[reportArgumentType]
    for seconds in (2.0, 3.0):
        assert not referee.due(0, 0)
        clock["now"] += seconds
    assert not referee.due(2, 0, is_end=True)
    assert program.seconds == [2.0, 3.0]
    assert clock["now"] == 15.0  # nobody has a turn after the end


def test_ratio_ceiling_and_share_leave_the_first_turn_out():
    program = Turns("alignbench", seconds=[9.0, 2.0, 2.0], network_seconds=[1.0, 1.6, 1.6])
    other = Turns("plain", seconds=[1.0, 4.0, 4.0], network_seconds=[1.0, 3.0, 3.0])
    measured = Measured(ROWS[0], "sd15_mini", 24, program, [other])
    assert measured.ratio(other).median == 2.0
    assert measured.ceiling(other).median == 2.5
    assert measured.outside(program).median == pytest.approx(0.2)
    assert measured.outside(other).median == 0.25


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Return a function that runs the program, and gives what it writes and prints."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # the program has a cache of its own

    def call(*arguments):
        file = tmp_path / "steps.json"
        steps.main([*arguments, "--updates", "1", "--json", str(file)])
        return json.loads(file.read_text()), capsys.readouterr().out

    return call


@pytest.mark.matrix
def test_a_small_run_measures_steps(run):
    rows = ["dpo-first-visit", "smpo-5", "smpo-5-points", "srpo"]
    small = ["train.total_batch_size=4", "train.micro_batch_size=4"]
    found, printed = run("--only", *rows, "--pairs", "12", *small)
    assert found["machine"]["threads"] == 1
    assert list(found["steps"]) == rows
    for row in found["steps"].values():
        (plain,) = row["plain"]
        assert 0 < row["alignbench"]["outside_networks"]["median"] < 1
        assert plain["ratio"]["median"] < plain["ceiling"]["median"]
        # the timesteps of both are the same, and so are the lengths of inversions
        ours, theirs = row["alignbench"]["passes_a_sample"], plain["passes_a_sample"]
        assert ours["backward"] == theirs["backward"]
        if row is found["steps"]["smpo-5-points"]:  # one inversion in place of five; each sample counts five times
            assert ours["backward"] == 2
            assert ours["forward"] < 0.8 * theirs["forward"]
        else:
            assert ours["forward"] == theirs["forward"]
    first_visit, _, _, srpo = (found["steps"][name]["alignbench"]["passes_a_sample"] for name in rows)
    assert (first_visit["forward"], first_visit["backward"], first_visit["encode"]) == (2, 2, 2)
    assert first_visit["text"] == 2, "the prompts of 4 samples fill half of a call"
    assert (srpo["forward"], srpo["backward"], srpo["decode"]) == (25, 2, 2)
    assert "| dpo-first-visit | micro-batch 4 |" in printed


@pytest.mark.matrix
def test_reports_and_scoring_are_timed(run, monkeypatch):
    monkeypatch.setattr(steps, "NUM_METHODS", (1,))
    found, printed = run("--only", "scoring", "report", "--pairs", "4", "--images", "4", "--resamples", "20")
    assert 0 < found["waits"]["scoring"]["outside_networks"][0] < 1
    assert found["waits"]["report"]["cpu_seconds"]["1"] > 0
    assert "report of base and 1 methods" in printed
