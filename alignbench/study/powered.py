"""`powered_win_rates.csv`: win rates of votes with the help of evaluators, which scored prompts without votes, too."""

from collections import defaultdict
from collections.abc import Mapping
from itertools import combinations

import numpy as np

from alignbench.report.columns import TableRow
from alignbench.statistics.prediction_powered import (
    MIN_VOTED,
    MIN_VOTED_PER_SCORE,
    PoweredWinRate,
    cross_fitted,
    prediction_powered,
)
from alignbench.votes.preferences import Count

POWERED_COLUMNS = (
    "question", "method_a", "method_b", "evaluator", "version", "n", "n_all", "win_rate", "ci_low", "ci_high", "weight",
    "saved", "trained_on",
)  # fmt: skip
JOINED = "all evaluators"
WORTH = 0.1  # share of votes saved, below which the help is hardly worth it

EvaluatorScores = Mapping[tuple[str, str], Mapping[str, Mapping[str, float]]]  # by evaluator, run and prompt


def powered_rows(
    counted: Count, question: str, methods: Mapping[str, str], scores: EvaluatorScores, trained_on: set[str]
) -> list[TableRow]:
    """Return a row for each pair of runs and evaluator, and one for all evaluators; none below 50 prompts with votes.

    Args:
        methods: how tables call each run.
        scores: of the first image of each prompt, the higher the better.
        trained_on: evaluators that a run of the study saw in training.
    """
    rows = []
    for b, a in combinations(counted.folder.study.runs, 2):
        won: dict[str, list[float]] = defaultdict(list)
        for one in counted.preferences:
            if one.question == question and {one.a, one.b} == {a, b}:
                won[one.prompt_id].append(one.won if one.a == a else 1 - one.won)
        of_both = {key: of for key, of in scores.items() if {a, b} <= of.keys()}
        prompts = sorted(set.intersection(*(of[a].keys() & of[b].keys() for of in of_both.values()))) if of_both else []
        voted = [prompt for prompt in prompts if prompt in won]
        if len(voted) < MIN_VOTED:
            continue
        votes = np.array([np.mean(won[prompt]) for prompt in voted])
        # which of all prompts have votes
        places = np.searchsorted(prompts, voted)
        gains = {key: np.array([of[a][one] - of[b][one] for one in prompts]) for key, of in of_both.items()}
        found = {}
        for key, gain in gains.items():
            automatic = 0.5 + np.sign(gain) / 2
            found[key] = prediction_powered(votes, automatic[places], automatic)
        if len(gains) > 1 and len(voted) >= MIN_VOTED_PER_SCORE * len(gains):
            joined = np.column_stack(list(gains.values()))
            found[JOINED, ""] = prediction_powered(votes, *cross_fitted(votes, joined[places], joined))
        where = {"question": question, "method_a": methods[a], "method_b": methods[b]}
        where |= {"n": len(voted), "n_all": len(prompts)}
        rows += [where | _row(key, one) | {"trained_on": key[0] in trained_on} for key, one in found.items()]
    return rows


def _row(evaluator: tuple[str, str], found: PoweredWinRate) -> TableRow:
    return {
        "evaluator": evaluator[0],
        "version": evaluator[1],
        "win_rate": found.win_rate.value,
        "ci_low": found.win_rate.low,
        "ci_high": found.win_rate.high,
        "weight": found.weight,
        "saved": found.saved,
    }
