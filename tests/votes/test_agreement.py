"""Agreement of raters with each other and of evaluators with raters, against values worked out by hand."""

import numpy as np
import pytest

from alignbench.votes.agreement import between_raters, ordinal_alpha, with_another_rater, with_evaluator
from alignbench.votes.preferences import count
from tests.studies import cast

# Krippendorff 2011, example C: 4 observers, 12 units, values 1 to 5, with gaps
OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
]


def coincidences(observers, num_values):
    """Count pairs of values unit by unit, each pair weighted by 1 / (values of the unit - 1)."""
    table = np.zeros((num_values, num_values))
    for unit in zip(*observers, strict=True):
        values = [value for value in unit if value is not None]
        for i, first in enumerate(values):
            for j, second in enumerate(values):
                if i != j:
                    table[first - 1, second - 1] += 1 / (len(values) - 1)
    return table


def test_ordinal_alpha_is_that_of_the_published_example():
    assert ordinal_alpha(coincidences(OBSERVERS, 5)) == pytest.approx(0.815, abs=5e-4)


def test_alpha_is_one_of_full_agreement_and_undefined_where_all_say_the_same():
    assert ordinal_alpha(np.diag([3.0, 5.0])) == 1
    assert np.isnan(ordinal_alpha(np.diag([3.0, 0.0])))


@pytest.fixture
def study(world):
    return world.study("base", "dpo", checks_per_rater=0)


def vote(study, answers_by_rater):
    """Cast votes on the prompts in turn; L is for base, R for dpo, = for neither."""
    base, dpo = study.study.runs
    words = {"L": "left", "R": "right", "=": "tie"}
    for rater, answers in enumerate(answers_by_rater):
        for prompt_id, answer in zip(study.study.prompts, answers, strict=True):
            if answer != " ":
                cast(study, rater, prompt_id, base, dpo, words[answer])
    return count(study)


def test_alpha_of_pairs_takes_either_image_as_the_first(study):
    """Two raters agree on three of four, all for one side; without the mirror alpha would be 0 there."""
    found = between_raters(vote(study, ["LLLL", "LLL="]), "overall")
    # mirrored coincidences of 8 answers: L-L and R-R 3 each; L-=, =-L, R-=, =-R 1/2 each, so L and R 3.5, = 1
    # distances: L-= 2.25^2, L-R 4.5^2; observed 4 * 0.5 * 5.0625; expected (4 * 3.5 * 5.0625 + 2 * 12.25 * 20.25) / 7
    assert found.alpha.value == pytest.approx(1 - 10.125 / ((4 * 3.5 * 5.0625 + 2 * 12.25 * 20.25) / 7))
    assert (found.raters, found.n, found.share.value) == (2, 4, 0.75)
    assert found.alpha.low <= found.alpha.value <= found.alpha.high


def test_a_lone_rater_agrees_with_nobody(study):
    found = between_raters(vote(study, ["LLRR"]), "overall")
    assert (found.raters, found.n) == (1, 0)
    assert np.isnan([found.share.value, found.alpha.value]).all()
    assert with_another_rater(vote(study, []), "overall").n == 0


def test_an_evaluator_agrees_where_it_prefers_what_a_rater_prefers(study):
    counted = vote(study, ["LRL=", "LLR "])
    base, dpo = study.study.runs
    # prefers base, dpo, neither, base
    scores = {
        base: dict(zip(study.study.prompts, [2, 1, 1, 5], strict=True)),
        dpo: dict.fromkeys(study.study.prompts, 1),
    }
    scores[dpo] |= {study.study.prompts[1]: 3}
    found = with_evaluator(counted, "overall", scores)
    # of six votes for one side: agrees on p0 twice and p1 once, against on p1 once, tied on p2 twice
    assert (found.n, found.rater_ties, found.evaluator_ties) == (6, 1, 2)
    assert found.share.value == pytest.approx((3 + 2 * 0.5) / 6)
    assert with_evaluator(counted, "appeal", scores).n == 0
    assert with_evaluator(counted, "overall", {base: scores[base]}).n == 0
    assert with_evaluator(counted, "overall", scores | {dpo: {study.study.prompts[0]: 1}}).n == 2


def test_another_rater_is_one_who_also_prefers_an_image(study):
    found = with_another_rater(vote(study, ["LRL=", "LLR=", "L=R "]), "overall")
    # p0: 3 pairs agree; p1: 1 disagrees; p2: 1 of 3 agrees
    assert (found.n, found.rater_ties) == (7, 3)
    assert found.share.value == pytest.approx(4 / 7)
