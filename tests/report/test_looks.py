"""Comparisons of runs that were measured look by look have the intervals and p-values of all looks together."""

import csv
import math
from pathlib import Path

import pytest

from alignbench.report import page
from alignbench.report.columns import LEADERBOARD_COLUMNS, STOPPED_AT, WIN_RATE_COLUMNS
from alignbench.report.display import grid_notes, grids, sections
from alignbench.report.figures import MARKS
from alignbench.report.looks import LooksOfPair
from alignbench.report.tables import build
from alignbench.statistics.intervals import compare
from alignbench.statistics.resampling import Resampling
from alignbench.store.look_record import Look, LookPlan, LookRecord, look_file, store_looks
from alignbench.store.scores import ScoreInfo

PLAN = LookPlan("obrien_fleming", False, "clip", "1", "f", 0, (8, 16, 24, 32, 40))
POCOCK = LookPlan("pocock", False, "clip", "1", "f", 0, (8, 16, 24, 32, 40))
GO_ON, STOP = Look(0.6, 0.5, False), Look(0.9, 1e-4, True)
CLIP = ScoreInfo("clip", "1")


def prompts(num):
    return {f"p{i:02d}": f"prompt {i}" for i in range(num)}


def scores(num, num_won):
    return [1.0] * num_won + [-1.0] * (num - num_won)


def stopped(folder, looks=(GO_ON, STOP), plan=PLAN):
    store_looks(folder, look_file(folder, "shapes", "1a2b"), LookRecord(plan, tuple(looks)))


def rows_of(rows, **values):
    return [row for row in rows if all(row[name] == value for name, value in values.items())]


def add_runs(world, base=40, a=16, b=None, **of_a):
    world.run("base", [0.0] * base, prompts=prompts(base), full_size=40)
    run = world.run("dpo", scores(a, round(0.875 * a)), prompts=prompts(a), full_size=40, **of_a)
    if b:
        world.run("sft", scores(b, b // 2), prompts=prompts(b), full_size=40)
    return run


def test_the_win_rate_that_decided_has_the_p_value_by_the_order_of_looks_and_the_repeated_interval(world):
    run = add_runs(world)
    (plain,) = rows_of(build(world.root).leaderboard, method="dpo", group="all")
    stopped(run)
    tables = build(world.root)
    (row,) = rows_of(tables.leaderboard, method="dpo", group="all")
    (pair,) = rows_of(tables.win_rates, method_a="dpo", group="all")
    assert row[STOPPED_AT] == pair[STOPPED_AT] == "2 of 5"
    assert row["win_rate_vs_base"] == plain["win_rate_vs_base"] == 0.875
    factor = 3.2256 / 1.96
    assert row["win_rate_vs_base"] - row["win_ci_low"] == pytest.approx(
        factor * (0.875 - plain["win_ci_low"]), rel=1e-4
    )
    assert row["win_ci_high"] == 1  # and no more
    single = 2 * sum(math.comb(16, k) for k in range(3)) / 2**16  # the sign test of 14 of 16
    assert row["p_win_weights"] == pytest.approx(PLAN.boundaries.stagewise_p(1, single))
    assert row["p_gain_weights"] > plain["p_gain_weights"]


def test_other_evaluators_and_groups_have_repeated_p_values(world):
    run = add_runs(world)
    add_runs(world, evaluator="other")
    world.run("base", [0.0] * 40, prompts=prompts(40), evaluator="other")
    stopped(run)
    single = 2 * sum(math.comb(16, k) for k in range(3)) / 2**16
    found = {
        row["evaluator"]: row["p_win_weights"]
        for row in rows_of(build(world.root, num_resamples=50).win_rates, method_a="dpo", group="all")
    }
    assert found["other"] > 10 * found["clip"]
    looks = LooksOfPair.of([None, LookRecord(PLAN, (GO_ON, STOP))], 16, None)
    assert looks is not None
    assert looks.p_value(single) == PLAN.boundaries.repeated_p(1, single)


def test_two_stopped_runs_are_compared_on_the_prompts_that_both_have(world):
    stopped(add_runs(world, b=24))
    other = world.run("sft", scores(24, 12), prompts=prompts(24), full_size=40)
    stopped(other, [GO_ON, GO_ON, STOP])
    (row,) = rows_of(build(world.root).win_rates, method_a="sft", method_b="dpo", group="all")
    assert (row["n"], row[STOPPED_AT]) == (16, "2 of 5")


def test_tables_without_looks_have_the_columns_of_ever(world):
    run = add_runs(world)
    for name, columns in (("leaderboard", LEADERBOARD_COLUMNS), ("win_rates", WIN_RATE_COLUMNS)):
        build(world.root, num_resamples=50).write(world.root)
        with (world.root / f"{name}.csv").open() as file:
            assert next(csv.reader(file)) == list(columns)
    stopped(run)
    build(world.root, num_resamples=50).write(world.root)
    for name, columns in (("leaderboard", LEADERBOARD_COLUMNS), ("win_rates", WIN_RATE_COLUMNS)):
        with (world.root / f"{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == [*columns, STOPPED_AT]
        assert {row[STOPPED_AT] for row in rows} >= {"2 of 5"}
    with (world.root / "leaderboard.csv").open() as file:
        assert {row[STOPPED_AT] for row in csv.DictReader(file) if row["method"] == "base"} == {""}


def test_the_page_marks_and_explains_a_run_that_stopped(world):
    stopped(add_runs(world))
    (section,) = sections(build(world.root, num_resamples=50))
    wins = next(grid for grid in grids(section) if grid.title.startswith("Win rate over base"))
    assert {row[0]: "d" in row[1].split()[-1].split(",") for row in wins.rows} == {"base": False, "dpo": True}
    assert any("Stopping biases the win rate itself away from 50" in note for note in grid_notes(section))


def test_views_of_the_page_that_explain_one_mark_explain_all():
    views = [file.read_text() for file in Path(page.__file__).parent.glob("site/views/*.js")]
    explaining = [text for text in views if '"trained_on", "subset"' in text]
    assert len(explaining) == 5
    for name in MARKS:
        assert all(f'"{name}"' in text for text in explaining)


def test_strengths_of_a_stopped_run_have_wider_intervals(world):
    run = add_runs(world)
    (plain,) = rows_of(build(world.root).ranking, method="dpo")
    stopped(run)
    (row,) = rows_of(build(world.root).ranking, method="dpo")
    assert row["strength"] == plain["strength"]
    assert row["ci_low"] - row["strength"] == pytest.approx(
        3.2256 / 1.96 * (plain["ci_low"] - plain["strength"]), rel=1e-3
    )


def test_all_prompts_that_were_measured_after_a_stop_are_the_last_look(world):
    run = add_runs(world, a=40)
    stopped(run)
    (row,) = rows_of(build(world.root, num_resamples=50).leaderboard, method="dpo", group="all")
    assert row[STOPPED_AT] == "5 of 5"


def test_runs_of_two_plans_share_the_level():
    records = [LookRecord(plan, (GO_ON, STOP)) for plan in (PLAN, POCOCK)]
    looks = LooksOfPair.of(records, 16, CLIP)
    assert looks is not None
    assert not looks.decided
    assert looks.widening == pytest.approx(PLAN.boundaries.widening(1, level=0.025))
    assert looks.p_value(0.001) == pytest.approx(2 * PLAN.boundaries.repeated_p(1, 0.001))
    assert looks.p_value(0.9) == 1


def test_where_all_prompts_are_won_the_end_is_the_exact_bound_of_the_look():
    result = compare([1.0] * 16, [0.0] * 16, Resampling(range(16), 50))
    assert result.win_rate.low == pytest.approx(0.025 ** (1 / 16))
    looks = LooksOfPair.of([LookRecord(PLAN, (GO_ON, STOP))], 16, CLIP)
    assert looks is not None
    found = looks.result(result, is_whole=True).win_rate
    assert (found.value, found.high) == (1, 1)
    assert found.low == pytest.approx((PLAN.boundaries.nominal_level(1) / 2) ** (1 / 16), rel=1e-3)


def test_only_a_rule_that_was_followed_to_its_end_has_decided():
    over = LookRecord(PLAN, (GO_ON, STOP))
    assert over.was_decided(CLIP, 16)
    assert not over.was_decided(ScoreInfo("clip", "2"), 16)
    assert not over.was_decided(CLIP, 24)
    assert not LookRecord(PLAN, (GO_ON,)).was_decided(CLIP, 8)
    assert LookRecord(PLAN, (GO_ON,) * 5).was_decided(CLIP, 40)
    assert [PLAN.look_with(num) for num in (3, 8, 15, 16, 40, 99)] == [0, 0, 0, 1, 4, 4]
