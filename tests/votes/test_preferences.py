"""Which votes count, and what grades say of two images."""

from alignbench.votes.preferences import Preference, count
from tests.studies import cast


def test_a_preference_is_the_same_whichever_side_an_image_was_on(world):
    study = world.study("base", "dpo", checks_per_rater=0)
    base, dpo = study.study.runs
    cast(study, 0, "p0", base, dpo, "left")
    cast(study, 0, "p1", dpo, base, "left")
    cast(study, 0, "p2", dpo, base, "tie")
    assert count(study).preferences == [
        Preference(0, "overall", "p0", base, dpo, 1.0),
        Preference(0, "overall", "p1", base, dpo, 0.0),
        Preference(0, "overall", "p2", base, dpo, 0.5),
    ]


def test_grades_are_compared_within_a_rater_a_question_and_a_prompt(world):
    study = world.study("base", "dpo", "kto", preset="srpo", checks_per_rater=0)
    base, dpo, kto = study.study.runs
    for rater, run, grade in ((0, base, "2"), (0, dpo, "4"), (0, kto, "2"), (1, base, "1")):
        cast(study, rater, "p0", run, None, grade)
    cast(study, 1, "p1", dpo, None, "4")
    cast(study, 1, "p0", dpo, None, "4", question="realism")
    assert count(study).preferences == [
        Preference(0, "overall", "p0", base, dpo, 0.0),
        Preference(0, "overall", "p0", base, kto, 0.5),
        Preference(0, "overall", "p0", dpo, kto, 1.0),
    ]


def test_who_fails_the_checks_is_reported_and_left_out_by_the_rule_of_the_study(world):
    study = world.study("base", "dpo", leave_out_below=0.75)
    base, dpo = study.study.runs
    for rater, passed in enumerate((4, 3, 2)):
        for number in range(4):
            cast(study, rater, "p0", base, base, "tie", check="same", passed=number < passed)
        cast(study, rater, "p1", base, dpo, "left")
    cast(study, 3, "p1", base, dpo, "left")  # has met no check yet
    counted = count(study)
    assert [(one.code, one.votes, one.checks, one.passed, one.left_out) for one in counted.attention] == [
        ("R01", 1, 4, 4, False), ("R02", 1, 4, 3, False), ("R03", 1, 4, 2, True), ("R04", 1, 0, 0, False),
    ]  # fmt: skip
    assert [one.rater for one in counted.preferences] == [0, 1, 3]
    assert len(counted.votes) == 16
    assert counted.attention[3].seconds is None


def test_a_study_without_votes_is_empty(world):
    study = world.study("base", "dpo")
    assert count(study).preferences == []
    assert not study.ballots.exists()
