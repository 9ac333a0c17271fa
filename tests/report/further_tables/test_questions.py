"""`questions.csv`: means over all questions of a category, with intervals over prompts."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from alignbench.report.columns import QUESTION_COLUMNS
from alignbench.report.comparison import Resamplings
from alignbench.report.contenders import Contender, Measurement
from alignbench.report.further_tables.questions import question_rows
from alignbench.scoring.evidence import Counted
from alignbench.store.scores import ScoreInfo, Scores


def contender(label, *runs):
    """A method whose runs have these categories; prompt ids are the texts of prompts in small letters."""
    scores = Scores.of(ScoreInfo("tifa_tiny", "1"), ["a"], [0], [1.0], ["d"])
    prompts: Any = {text.lower(): SimpleNamespace(prompt=text) for text in (*"ABC", *map(str, range(400)))}
    manifest: Any = SimpleNamespace(run=f"{label}-0")
    sampling: Any = None
    return Contender(label, tuple(Measurement(manifest, sampling, "", prompts, scores, None, found) for found in runs))


def test_a_mean_is_over_all_questions_of_a_category_and_all_seeds():
    base = contender("base", {"count": {"a": Counted(1.5, 3), "b": Counted(0.0, 1)}, "verb": {"c": Counted(1.0, 1)}})
    dpo = contender("dpo", {"count": {"a": Counted(3.0, 3)}}, {"count": {"a": Counted(0.0, 3), "b": Counted(1.0, 1)}})
    rows = question_rows("sd", "shapes", [base, dpo], Resamplings(200))
    assert all(tuple(row) == QUESTION_COLUMNS for row in rows)
    told = [(row["method"], row["category"], row["n"], row["questions"], row["mean"]) for row in rows]
    assert told == [("base", "count", 2, 4, 1.5 / 4), ("base", "verb", 1, 1, 1.0), ("dpo", "count", 2, 7, 4 / 7)]
    assert rows[2]["num_seeds"] == 2
    assert (rows[0]["ci_low"], rows[0]["ci_high"]) == (0.0, 0.5)  # of resamples with one of the prompts alone
    assert np.isnan(rows[1]["ci_low"])


def test_an_interval_over_prompts_is_that_of_their_share():
    rng = np.random.default_rng(0)
    right = rng.random(400) < 0.7
    found = {str(number): Counted(float(one), 1) for number, one in enumerate(right)}
    [row] = question_rows("sd", "shapes", [contender("base", {"count": found})], Resamplings(2000))
    half = 1.96 * (right.mean() * (1 - right.mean()) / 400) ** 0.5
    assert row["ci_low"] == pytest.approx(right.mean() - half, abs=0.01)
    assert row["ci_high"] == pytest.approx(right.mean() + half, abs=0.01)
