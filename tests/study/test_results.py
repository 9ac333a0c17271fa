"""The tables of a study: figures worked out by hand, raters by code, and the program that writes them."""

import csv
import sys

import pytest

from alignbench.study.__main__ import main
from alignbench.study.results import write_results
from tests.studies import cast


def read(study, name):
    with (study.path / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def pairs(world):
    study = world.study("base", "dpo", checks_per_rater=0)
    base, dpo = study.study.runs
    world.score(study.root / base, [0, 0, 0, 0])
    world.score(study.root / dpo, [1, 1, 1, 1])
    for rater, answers in enumerate((["right"] * 4, ["right", "right", "tie", "left"])):
        for prompt_id, answer in zip(study.study.prompts, answers, strict=True):
            cast(study, rater, prompt_id, base, dpo, answer)
    cast(study, 2, "p0", base, base, "left", check="same", passed=False)
    cast(study, 2, "p0", base, dpo, "left")
    return study


def test_the_program_counts_and_prints(pairs, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["study", "results", str(pairs.path)])
    monkeypatch.setenv("COLUMNS", "120")
    main()
    said = capsys.readouterr().out
    assert "10 votes of 3 raters on 4 prompts" in said
    assert "less than 75 % of their checks: R03" in said
    assert "stages=[report]" in said
    (row,) = read(pairs, "win_rates")
    assert (row["question"], row["method_a"], row["method_b"]) == ("overall", "dpo", "base")
    assert (row["n"], row["wins"], row["ties"], row["win_rate"]) == ("8", "6", "1", f"{6.5 / 8:.9g}")
    assert float(row["ci_low"]) < 6.5 / 8 <= float(row["ci_high"])
    # three prompts for dpo, the fourth is even: 2 * 0.5^3 over prompts alone; two raters who count say less
    assert 0.25 < float(row["p_win"]) < 0.5
    assert [
        (one["evaluator"], one["version"], one["n"], one["agreement"]) for one in read(pairs, "evaluator_agreement")
    ][:2] == [("clip", "1", "7", f"{6 / 7:.9g}"), ("human", "another rater", "3", f"{2 / 3:.9g}")]
    assert read(pairs, "rater_agreement")[0]["equal"] == "0.5"
    assert not (pairs.path / "grades.csv").exists()


def test_votes_are_exported_by_code_and_method_with_those_that_do_not_count(pairs):
    write_results(pairs, num_resamples=50)
    votes = read(pairs, "human_votes")
    assert len(votes) == 10
    assert [(vote["rater"], vote["left_out"]) for vote in votes[::4]] == [
        ("R01", "False"),
        ("R02", "False"),
        ("R03", "True"),
    ]
    assert votes[-2]["check"] == "same"
    assert {vote["method_left"] for vote in votes} == {"base"}
    for file in pairs.path.glob("*.csv"):
        assert "rater 0" not in file.read_text(), f"{file} names a rater"


def test_grades_have_means_and_shares_of_the_highest(world):
    study = world.study("base", "dpo", preset="srpo", checks_per_rater=0)
    base, dpo = study.study.runs
    for prompt_id, grade in zip(study.study.prompts, "4432", strict=True):
        cast(study, 0, prompt_id, dpo, None, grade, question="realism")
        cast(study, 0, prompt_id, base, None, "1", question="realism")
    write_results(study, num_resamples=200)
    rows = {row["method"]: row for row in read(study, "grades")}
    assert (rows["dpo"]["question"], rows["dpo"]["n"], rows["dpo"]["mean"]) == ("realism", "4", "3.25")
    assert (rows["dpo"]["excellent"], rows["base"]["excellent"], rows["base"]["excellent_ci_low"]) == ("0.5", "0", "0")
    assert read(study, "win_rates")[0]["win_rate"] == "1"


def test_a_study_without_votes_has_empty_tables(world):
    study = world.study("base", "dpo")
    results = write_results(study, num_resamples=50)
    assert results.win_rates == []
    assert read(study, "human_votes") == []
