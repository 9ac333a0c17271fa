"""The interval of votes that holds at any time goes by the first vote on each prompt, whoever cast it."""

import pytest

from alignbench.statistics.always_valid import with_ties
from alignbench.study.results import study_results
from tests.studies import cast


def any_time(study):
    (row,) = study_results(study, num_resamples=50).win_rates
    return row["any_time_low"], row["any_time_high"]


def test_later_votes_on_a_prompt_change_nothing(world):
    study = world.study("base", "dpo", checks_per_rater=0)
    base, dpo = study.study.runs
    for prompt_id, answer in zip(study.study.prompts, ("right", "right", "tie"), strict=False):
        cast(study, 1, prompt_id, base, dpo, answer)
    expected = with_ties([1, 1, 0.5]).win_rate
    assert any_time(study) == pytest.approx((expected.low, expected.high))
    for prompt_id in study.study.prompts[:3]:
        cast(study, 0, prompt_id, base, dpo, "left")
    assert any_time(study) == pytest.approx((expected.low, expected.high))
    cast(study, 0, study.study.prompts[3], dpo, base, "left")  # dpo on the left: one more for it
    expected = with_ties([1, 1, 0.5, 1]).win_rate
    assert any_time(study) == pytest.approx((expected.low, expected.high))


def test_grades_count_once_both_images_of_a_prompt_have_one(world):
    study = world.study("base", "dpo", preset="srpo", checks_per_rater=0)
    base, dpo = study.study.runs
    for prompt_id, grade in zip(study.study.prompts, "412", strict=False):
        cast(study, 0, prompt_id, dpo, None, grade, question="realism")
        cast(study, 0, prompt_id, base, None, "2", question="realism")
    cast(study, 0, study.study.prompts[3], dpo, None, "4", question="realism")
    expected = with_ties([1, 0, 0.5]).win_rate
    assert any_time(study) == pytest.approx((expected.low, expected.high))
