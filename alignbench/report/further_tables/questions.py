"""`questions.csv`: what the answers to questions of each category count, such as the skills of GenEval 2."""

from collections.abc import Sequence

import numpy as np

from alignbench.report.columns import TableRow
from alignbench.report.comparison import Resamplings
from alignbench.report.contenders import Contender


def question_rows(
    model: str, prompt_set: str, contenders: Sequence[Contender], resamplings: Resamplings
) -> list[TableRow]:
    """Return a row for each method and category: the mean over all its questions, whatever prompt they belong to.

    Args:
        model: whose methods these are.
        prompt_set: as tables call it.
        contenders: the methods.
        resamplings: of prompts, for the intervals.
    """
    return [
        _row(model, prompt_set, contender, category, resamplings)
        for contender in contenders
        for category in sorted({category for run in contender.runs for category in run.categories})
    ]


def _row(model: str, prompt_set: str, contender: Contender, category: str, resamplings: Resamplings) -> TableRow:
    totals: dict[str, list[float]] = {}  # of all runs, by the text of the prompt: what answers count, their number
    for run in contender.runs:
        for prompt_id, counted in run.categories.get(category, {}).items():
            total = totals.setdefault(run.prompts[prompt_id].prompt, [0.0, 0.0])
            total[0] += counted.total
            total[1] += counted.num
    resampling = resamplings.of(totals)
    sums = np.array([*totals.values()]).T  # [2, P]
    drawn = resampling.totals(sums)
    total, num = sums.sum(axis=1)
    mean = resampling.interval(float(total / num), drawn[0] / drawn[1])
    info = contender.runs[0].scores.info
    return {
        "model": model,
        "method": contender.label,
        "run": " ".join(run.manifest.run for run in contender.runs),
        "num_seeds": len(contender.runs),
        "prompt_set": prompt_set,
        "evaluator": info.evaluator,
        "version": info.version,
        "category": category,
        "n": len(totals),
        "questions": int(num),
        "mean": mean.value,
        "ci_low": mean.low,
        "ci_high": mean.high,
    }
