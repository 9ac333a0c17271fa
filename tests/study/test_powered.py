"""Win rates of votes with the help of evaluators: who gets a row, what it says, and what is printed."""

import csv

import numpy as np
import pytest

from alignbench.study.results import print_results, write_results
from alignbench.terminal.console import open_console
from tests.studies import cast

PROMPTS = {f"p{number:03d}": f"picture {number}" for number in range(240)}


@pytest.fixture
def voted(world):
    """Return a function that begins a study, whose only rater prefers dpo on some prompts, and counts it.

    It also returns the share of all prompts on which that rater would prefer dpo, and how the preferences of each
    evaluator correlate with the votes.
    """

    def count(num_votes, **accuracies):
        rng = np.random.default_rng(0)
        likes_dpo = rng.random(len(PROMPTS)) < 0.6
        runs = [world.run(method, PROMPTS, size=(8, 8)) for method in ("base", "dpo")]
        prefers_dpo = {}
        for evaluator, accuracy in accuracies.items():
            agrees = rng.random(len(PROMPTS)) < accuracy
            prefers_dpo[evaluator] = likes_dpo == agrees
            world.score(runs[0], [0.0] * len(PROMPTS), evaluator)
            world.score(runs[1], np.where(prefers_dpo[evaluator], 1.0, -1.0), evaluator)
        study = world.study("base", "dpo", num_prompts=num_votes, checks_per_rater=0)
        base, dpo = study.study.runs
        shown = [list(PROMPTS).index(prompt_id) for prompt_id in study.study.prompts]
        for prompt_id, number in zip(study.study.prompts, shown, strict=True):
            cast(study, 0, prompt_id, base, dpo, "right" if likes_dpo[number] else "left")
        correlations = {
            evaluator: np.corrcoef(likes_dpo[shown], prefers[shown])[0, 1] for evaluator, prefers in prefers_dpo.items()
        }
        return write_results(study, num_resamples=50), likes_dpo.mean(), correlations

    return count


def test_an_evaluator_that_agrees_with_people_makes_the_interval_narrower(voted, capsys):
    results, truth, _ = voted(60, good=0.9, poor=0.55)
    rows = {row["evaluator"]: row for row in results.powered}
    assert list(rows) == ["good", "poor", "all evaluators"]
    assert {(row["method_a"], row["method_b"], row["n"], row["n_all"]) for row in results.powered} == {
        ("dpo", "base", 60, 240)
    }
    assert rows["good"]["ci_low"] < truth < rows["good"]["ci_high"]
    assert rows["good"]["saved"] > 0.25 > 0.1 > rows["poor"]["saved"]
    assert rows["all evaluators"]["saved"] > 0.25
    with (results.folder.path / "powered_win_rates.csv").open() as file:
        assert [row["evaluator"] for row in csv.DictReader(file)] == list(rows)
    print_results(results, open_console())
    said = capsys.readouterr().out
    assert "with the help of evaluators" in said
    assert "poor" not in said.split("with the help of evaluators")[1]


def test_a_hundred_votes_and_six_evaluators_are_worth_what_the_formula_says(voted):
    accuracies = {"a": 0.95, "b": 0.9, "c": 0.8, "d": 0.7, "e": 0.6, "f": 0.5}
    results, truth, correlations = voted(100, **accuracies)
    (alone,) = [row for row in results.win_rates if row["method_a"] == "dpo"]
    half = 1.984 * np.sqrt(alone["win_rate"] * (1 - alone["win_rate"]) / 99)  # Student's, 99 degrees of freedom
    rows = {row["evaluator"]: row for row in results.powered}
    assert list(rows) == [*accuracies, "all evaluators"]
    for row in rows.values():
        assert (row["n"], row["n_all"]) == (100, 240)
        assert row["ci_low"] < truth < row["ci_high"]
        width = (row["ci_high"] - row["ci_low"]) / 2 / half
        assert width == pytest.approx(np.sqrt(1 - row["saved"]), abs=0.001)
    # the share of the votes' variance that an evaluator explains, as far as prompts have no votes
    expected = {one: max(rho, 0) ** 2 * (1 - 100 / 240) for one, rho in correlations.items()}
    assert {one: rows[one]["saved"] for one in accuracies} == pytest.approx(expected, abs=0.02)
    assert rows["all evaluators"]["saved"] > max(expected.values()) - 0.05


def test_evaluators_that_know_little_are_said_to_be_hardly_worth_it(voted, capsys):
    results, *_ = voted(60, poor=0.55)
    assert [row["evaluator"] for row in results.powered] == ["poor"]
    print_results(results, open_console())
    assert "no evaluator would save 10 % of the votes: their help is hardly worth it" in capsys.readouterr().out


def test_below_fifty_votes_there_is_no_row(voted):
    results, *_ = voted(49, good=0.9)
    assert results.powered == []
    assert not (results.folder.path / "powered_win_rates.csv").exists()
