"""Votes stand in the tables as the evaluator `human`, counted vote by vote."""

import math

import pytest

from alignbench.report.markdown import markdown
from alignbench.report.polls.human import read_polls
from alignbench.report.tables import build
from alignbench.store.manifest import ResultsError
from tests.studies import World, cast

GROUPS = {"p0": ("flat",), "p1": ("flat",), "p2": ("shaded",), "p3": ("shaded",)}


@pytest.fixture
def world(tmp_path):
    return World(tmp_path / "results")


@pytest.fixture
def study(world):
    """Base, dpo and kto on four prompts: dpo wins on three, kto on one against base, dpo always against kto."""
    for method in ("base", "dpo", "kto"):
        world.score(world.run(method, groups=GROUPS), [0.0, 0.0, 0.0, 0.0])
    study = world.study("base", "dpo", "kto", checks_per_rater=0)
    base, dpo, kto = study.study.runs
    for rater in range(2):
        for prompt_id, over_base, kto_over_base in zip(study.study.prompts, "rrrl", "rlll", strict=True):
            words = {"l": "left", "r": "right"}
            cast(study, rater, prompt_id, base, dpo, words[over_base])
            cast(study, rater, prompt_id, base, kto, words[kto_over_base])
            cast(study, rater, prompt_id, dpo, kto, "left")
    return study


def rows(table, **wanted):
    return [row for row in table if wanted.items() <= row.items()]


def test_win_rates_are_those_of_votes(world, study):
    tables = build(world.root, num_resamples=300)
    (row,) = rows(tables.win_rates, evaluator="human", group="all", method_a="dpo", method_b="base")
    assert (row["n"], row["wins"], row["ties"], row["win_rate"]) == (8, 6, 0, 0.75)
    assert row["ci_low"] < 0.75 < row["ci_high"]
    (row,) = rows(tables.win_rates, evaluator="human", group="all", method_a="kto", method_b="dpo")
    assert (row["n"], row["win_rate"]) == (8, 0.0)
    (row,) = rows(tables.win_rates, evaluator="human", group="shaded", method_a="dpo", method_b="base")
    assert (row["n"], row["win_rate"]) == (4, 0.5)
    assert {row["evaluator"] for row in tables.win_rates} == {"clip", "human"}
    assert {row["version"] for row in rows(tables.win_rates, evaluator="human")} == {study.study.name}


def test_the_leaderboard_has_shares_of_votes_won_and_the_win_rate_over_base(world, study):
    tables = build(world.root, num_resamples=300)
    (row,) = rows(tables.leaderboard, evaluator="human", group="all", method="dpo")
    # by prompt, of four votes each: 4, 4, 4 and 2 won
    assert (row["n"], row["mean"], row["median"]) == (4, pytest.approx(0.875), 1.0)
    assert row["summary"] == "mean"  # which says more than the median of images that won all of their votes or none
    assert (row["win_rate_vs_base"], row["version"], row["subset"]) == (0.75, study.study.name, False)
    (base,) = rows(tables.leaderboard, evaluator="human", group="all", method="base")
    assert math.isnan(base["win_rate_vs_base"])
    assert base["mean"] == pytest.approx((0 + 0.5 + 0.5 + 1) / 4)
    assert "human ↑" in markdown(tables)


def test_strengths_come_from_votes(world, study):
    tables = build(world.root, num_resamples=300)
    strengths = {row["method"]: row["strength"] for row in rows(tables.ranking, evaluator="human")}
    assert strengths["dpo"] > strengths["base"] == 0 > strengths["kto"]


def test_grades_stand_as_means_of_grades(world):
    study = world.study("base", "dpo", preset="srpo", checks_per_rater=0)
    base, dpo = study.study.runs
    for prompt_id in study.study.prompts:
        for rater, grade in enumerate("34"):
            cast(study, rater, prompt_id, base, None, "2", question="realism")
            cast(study, rater, prompt_id, dpo, None, grade, question="realism")
    tables = build(world.root, num_resamples=50)
    (row,) = rows(tables.leaderboard, method="dpo", evaluator="human_realism")
    assert (row["mean"], row["win_rate_vs_base"]) == (3.5, 1.0)
    assert not rows(tables.leaderboard, evaluator="human")


def test_two_studies_of_the_same_images_do_not_mix(world, study):
    second = world.study("base", "dpo", name="second", checks_per_rater=0)
    cast(second, 0, "p0", *second.study.runs, "left")
    tables = build(world.root, num_resamples=50)
    names = {row["evaluator"] for row in tables.win_rates} - {"clip"}
    assert names == {f"human@{study.study.name}", "human@second"}


def test_studies_without_votes_that_count_change_nothing(world):
    study = world.study("base", "dpo", checks_per_rater=4)
    assert read_polls([study]) == []
    base, dpo = study.study.runs
    cast(study, 0, "p0", base, base, "left", check="same", passed=False)
    cast(study, 0, "p0", base, dpo, "left")
    assert read_polls([study]) == []


def test_a_study_whose_run_is_gone_says_so(world, study):
    import shutil

    shutil.rmtree(world.root / study.study.runs[1])
    with pytest.raises(ResultsError, match=r"compares dpo-.* which is not in .*; bring it back"):
        build(world.root)


def test_of_a_study_whose_votes_count_that_is_not_said(world, study):
    assert "no vote of the study" not in markdown(build(world.root, num_resamples=50))
