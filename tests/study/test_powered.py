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
    """Return a function that begins a study, whose only rater prefers dpo on some prompts, and counts it."""

    def count(num_votes, **accuracies):
        rng = np.random.default_rng(0)
        likes_dpo = rng.random(len(PROMPTS)) < 0.6
        runs = [world.run(method, PROMPTS, size=(8, 8)) for method in ("base", "dpo")]
        for evaluator, accuracy in accuracies.items():
            agrees = rng.random(len(PROMPTS)) < accuracy
            world.score(runs[0], [0.0] * len(PROMPTS), evaluator)
            world.score(runs[1], np.where(likes_dpo == agrees, 1.0, -1.0), evaluator)
        study = world.study("base", "dpo", num_prompts=num_votes, checks_per_rater=0)
        base, dpo = study.study.runs
        for prompt_id in study.study.prompts:
            cast(study, 0, prompt_id, base, dpo, "right" if likes_dpo[list(PROMPTS).index(prompt_id)] else "left")
        return write_results(study, num_resamples=50), likes_dpo.mean()

    return count


def test_an_evaluator_that_agrees_with_people_makes_the_interval_narrower(voted, capsys):
    results, truth = voted(60, good=0.9, poor=0.55)
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


def test_evaluators_that_know_little_are_said_to_be_hardly_worth_it(voted, capsys):
    results, _ = voted(60, poor=0.55)
    assert [row["evaluator"] for row in results.powered] == ["poor"]
    print_results(results, open_console())
    assert "no evaluator would save 10 % of the votes: their help is hardly worth it" in capsys.readouterr().out


def test_below_fifty_votes_there_is_no_row(voted):
    results, _ = voted(49, good=0.9)
    assert results.powered == []
    assert not (results.folder.path / "powered_win_rates.csv").exists()
