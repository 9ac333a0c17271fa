"""C12: a study whose raters are all left out says so, without empty rows; a rater without votes is not counted."""

import sys

import pytest

from alignbench.report.markdown import markdown
from alignbench.report.tables import build
from alignbench.study.__main__ import main
from alignbench.votes.ballots import Ballots
from tests.studies import World, cast


@pytest.fixture
def world(tmp_path, no_wait_for_the_disk):
    return World(tmp_path / "results")


def test_where_all_raters_are_left_out_the_program_says_so_and_prints_no_empty_rows(world, monkeypatch, capsys):
    study = world.study("base", "dpo")
    base, dpo = study.study.runs
    cast(study, 0, "p0", base, dpo, "left")
    cast(study, 0, "p0", base, base, "left", check="same", passed=False)
    ballots = Ballots(study.ballots)
    ballots.join("a rater who only opened the page")
    ballots.close()
    monkeypatch.setattr(sys, "argv", ["study", "results", str(study.path)])
    main()
    said = capsys.readouterr().out
    assert "2 votes of 1 raters" in said
    assert "no vote counts, as all raters are left out" in said
    assert "Agreement" not in said


def test_a_study_whose_raters_are_all_left_out_is_said_to_have_no_votes(world):
    for method in ("base", "dpo"):
        world.score(world.run(method), [0.0, 0.0, 0.0, 0.0])
    study = world.study("base", "dpo")
    base, dpo = study.study.runs
    for rater in range(2):
        cast(study, rater, "p0", base, dpo, "right")
        cast(study, rater, "p1", base, dpo, "left", check="repeat", passed=False)
    text = markdown(build(world.root, num_resamples=50))
    told = f"people: no vote of the study {study.study.name} counts, as all 2 raters passed too few attention checks"
    assert told in text.replace("\\", "")
    assert "human" not in text
