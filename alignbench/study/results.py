"""Count a study: its tables, written beside its votes and printed.

    human_votes.csv           every vote, raters by code
    raters.csv                who voted how much, how attentively, and whether they count
    win_rates.csv             every method against every other, by question; with an interval that holds at any time
    grades.csv                of graded images: mean grade and share of excellent ones, by method and question
    rater_agreement.csv       how far raters agree, by question
    evaluator_agreement.csv   how often each evaluator prefers what raters prefer, by question
    powered_win_rates.csv     the win rates with the help of evaluators, from 50 prompts with votes on

The report joins the same win rates to its tables; see `alignbench.report.polls.human`.
"""

from dataclasses import asdict, dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from alignbench.files import write_csv
from alignbench.report.columns import TableRow
from alignbench.report.labels import recipe_labels
from alignbench.report.polls.human import compare_votes
from alignbench.report.readable import readable
from alignbench.report.tables import measurements
from alignbench.statistics import intervals
from alignbench.statistics.resampling import NUM_RESAMPLES, Estimate
from alignbench.statistics.significance import holm
from alignbench.study.any_time import any_time
from alignbench.study.powered import POWERED_COLUMNS, WORTH, EvaluatorScores, powered_rows
from alignbench.votes.agreement import between_raters, with_another_rater, with_evaluator
from alignbench.votes.preferences import Count, count
from alignbench.votes.presets import TOP_GRADE
from alignbench.votes.record import StudyFolder
from alignbench.votes.resampling import CrossedResampling

if TYPE_CHECKING:
    from rich.console import Console


VOTE_COLUMNS = (
    "rater", "task", "question", "prompt_id", "method_left", "method_right", "answer", "check", "passed", "left_out",
    "cast_at",
)  # fmt: skip
RATER_COLUMNS = ("rater", "votes", "checks", "passed", "left_out", "seconds")
WIN_COLUMNS = (
    "question", "method_a", "method_b", "n", "wins", "ties", "win_rate", "ci_low", "ci_high", "p_win", "p_gain",
    "any_time_low", "any_time_high",
)  # fmt: skip
GRADE_COLUMNS = (
    "question", "method", "n", "mean", "mean_ci_low", "mean_ci_high", "excellent", "excellent_ci_low",
    "excellent_ci_high",
)  # fmt: skip
RATER_AGREEMENT_COLUMNS = (
    "question", "raters", "n", "equal", "equal_ci_low", "equal_ci_high", "alpha", "alpha_ci_low", "alpha_ci_high",
)  # fmt: skip
EVALUATOR_AGREEMENT_COLUMNS = (
    "question", "evaluator", "version", "n", "rater_ties", "evaluator_ties", "agreement", "ci_low", "ci_high",
    "trained_on",
)  # fmt: skip
ANOTHER_RATER = "another rater"


@dataclass(frozen=True)
class StudyResults:
    """The tables of a study, row by row; see above."""

    folder: StudyFolder
    votes: list[TableRow]
    raters: list[TableRow]
    win_rates: list[TableRow]
    grades: list[TableRow]
    rater_agreement: list[TableRow]
    evaluator_agreement: list[TableRow]
    powered: list[TableRow]


def write_results(folder: StudyFolder, num_resamples: int = NUM_RESAMPLES) -> StudyResults:
    """Count the votes of a study so far and write its tables; return them."""
    results = study_results(folder, num_resamples)
    for name, columns, rows in (
        ("human_votes", VOTE_COLUMNS, results.votes),
        ("raters", RATER_COLUMNS, results.raters),
        ("win_rates", WIN_COLUMNS, results.win_rates),
        ("rater_agreement", RATER_AGREEMENT_COLUMNS, results.rater_agreement),
        ("evaluator_agreement", EVALUATOR_AGREEMENT_COLUMNS, results.evaluator_agreement),
        *([("powered_win_rates", POWERED_COLUMNS, results.powered)] if results.powered else []),
        *([("grades", GRADE_COLUMNS, results.grades)] if folder.study.protocol.kind == "grades" else []),
    ):
        write_csv(folder.path / f"{name}.csv", columns, rows)
    return results


def study_results(folder: StudyFolder, num_resamples: int = NUM_RESAMPLES) -> StudyResults:
    """Count the votes of a study so far."""
    questions = [question.name for question in folder.study.protocol.questions]
    counted = count(folder)
    runs = {one.name: one for one in [*readable(folder.root).runs, *map(folder.run, folder.study.runs)]}
    labels = recipe_labels(runs.values())
    methods = {run: labels[one.model, one.recipe_hash] for run, one in folder.manifests.items()}
    left_out = {one.rater: one.left_out for one in counted.attention}
    code = {one.rater: one.code for one in counted.attention}
    votes = [
        {
            **asdict(vote),
            "rater": code[vote.rater],
            "method_left": methods[vote.left_run],
            "method_right": vote.right_run and methods[vote.right_run],
            "check": vote.check_kind,
            "left_out": left_out[vote.rater],
        }
        for vote in counted.votes
    ]
    win_rates = [row for question in questions for row in _win_rates(counted, question, methods, num_resamples)]
    for name in ("p_win", "p_gain"):
        for row, adjusted in zip(win_rates, holm([row[name] for row in win_rates]), strict=True):
            row[name] = float(adjusted)
    graded = folder.study.protocol.kind == "grades"
    scores = _scores(folder)
    trained_on = {name for manifest in folder.manifests.values() for name in manifest.trained_on}
    return StudyResults(
        folder,
        votes,
        [asdict(one) | {"rater": one.code} for one in counted.attention],
        win_rates,
        [row for question in questions for row in _grades(counted, question, methods, num_resamples)] if graded else [],
        [_rater_row(counted, question, num_resamples) for question in questions],
        [row for q in questions for row in _evaluator_rows(counted, q, scores, trained_on, num_resamples)],
        [row for q in questions for row in powered_rows(counted, q, methods, scores, trained_on)],
    )


def _win_rates(counted: Count, question: str, methods: dict[str, str], num_resamples: int) -> list[TableRow]:
    rows = []
    for b, a in combinations(counted.folder.study.runs, 2):  # the first, mostly base, is the one to beat
        votes = [one for one in counted.preferences if one.question == question and {one.a, one.b} == {a, b}]
        if votes:
            won = np.array([one.won if one.a == a else 1 - one.won for one in votes])
            result = compare_votes(counted, votes, won, num_resamples)
            at_any_time = any_time(counted, votes, a)
            rows.append(
                {
                    "question": question,
                    "method_a": methods[a],
                    "method_b": methods[b],
                    **{name: getattr(result, name) for name in ("n", "wins", "ties")},
                    "p_win": result.p_win_weights,  # a study shows images of one run a method
                    "p_gain": result.p_gain_weights,
                    **_estimate("win_rate", "ci", result.win_rate),
                    "any_time_low": at_any_time.low,
                    "any_time_high": at_any_time.high,
                }
            )
    return rows


def _grades(counted: Count, question: str, methods: dict[str, str], num_resamples: int) -> list[TableRow]:
    rows = []
    for run, method in methods.items():
        votes = [vote for vote in counted.counting if (vote.question, vote.left_run) == (question, run)]
        if not votes:
            continue
        texts = [counted.folder.text(vote.prompt_id) for vote in votes]
        resampling = CrossedResampling(texts, [vote.rater for vote in votes], num_resamples)
        grades = np.array([int(vote.answer) for vote in votes])
        top = (grades == TOP_GRADE).astype(np.float64)
        rows.append(
            {
                "question": question,
                "method": method,
                "n": len(votes),
                **_estimate("mean", "mean_ci", intervals.mean(grades, resampling)),
                **_estimate("excellent", "excellent_ci", intervals.compare(top, 1 - top, resampling).win_rate),
            }
        )
    return rows


def _rater_row(counted: Count, question: str, num_resamples: int) -> TableRow:
    found = between_raters(counted, question, num_resamples)
    counts = {"question": question, "raters": found.raters, "n": found.n}
    return counts | _estimate("equal", "equal_ci", found.share) | _estimate("alpha", "alpha_ci", found.alpha)


def _scores(folder: StudyFolder) -> EvaluatorScores:
    """Return what evaluators gave the images of a study's runs, the higher the better."""
    study = folder.study
    scores: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for run in study.runs:
        for one in measurements(folder.run(run)):
            if (one.sampling.prompt_set, one.sampling_hash) == (study.prompt_set, study.sampling_hash):
                info = one.scores.info
                sign = 1 if info.higher_is_better else -1
                first = {prompt_id: sign * score for (prompt_id, image), score in one.by_image.items() if image == 0}
                scores.setdefault((info.evaluator, info.version), {})[run] = first
    return scores


def _evaluator_rows(
    counted: Count, question: str, scores: EvaluatorScores, trained_on: set[str], num_resamples: int
) -> list[TableRow]:
    """Return a row an evaluator that scored at least two of the runs, and one for the raters themselves."""
    found = {key: with_evaluator(counted, question, of, num_resamples) for key, of in sorted(scores.items())}
    found["human", ANOTHER_RATER] = with_another_rater(counted, question, num_resamples)
    return [
        {
            "question": question,
            "evaluator": evaluator,
            "version": version,
            "n": one.n,
            "rater_ties": one.rater_ties,
            "evaluator_ties": one.evaluator_ties,
            **_estimate("agreement", "ci", one.share),
            "trained_on": evaluator in trained_on,
        }
        for (evaluator, version), one in found.items()
    ]


def _estimate(name: str, interval: str, estimate: Estimate) -> TableRow:
    return {name: estimate.value, f"{interval}_low": estimate.low, f"{interval}_high": estimate.high}


def print_results(results: StudyResults, console: "Console") -> None:
    """Print the tables of a study."""
    from rich.table import Table

    study = results.folder.study
    raters = [row for row in results.raters if row["votes"] or row["checks"]]  # others only opened the page
    out = [row["rater"] for row in raters if row["left_out"]]
    console.print(f"{results.folder.path}", soft_wrap=True, markup=False)
    rule = (
        f"left out for passing less than {100 * study.leave_out_below:g} % of their checks: {', '.join(out) or 'none'}"
    )
    counts = f"{len(results.votes)} votes of {len(raters)} raters on {len(study.prompts)} prompts of {study.prompt_set}"
    console.print(f"{counts}; {rule}", soft_wrap=True, markup=False)
    if raters and len(out) == len(raters):
        console.print("no vote counts, as all raters are left out", soft_wrap=True, markup=False)
    wins = Table("question", "method", "over", "n", "ties", "% won [95 %]", "p", "% won, at any time",
                 title="Human win rates")  # fmt: skip
    for row in results.win_rates:
        rate = _percent(row, "win_rate", "ci")
        p, ends = f"{row['p_win']:.3g}", (100 * row[f"any_time_{end}"] for end in ("low", "high"))
        cells = (str(row["n"]), str(row["ties"]), rate, p, "[{:.1f}, {:.1f}]".format(*ends))
        wins.add_row(row["question"], row["method_a"], row["method_b"], *cells)
    grades = Table("question", "method", "n", "mean grade [95 %]", "% excellent [95 %]", title="Grades, 1 to 4")
    for row in results.grades:
        mean = _text(row, "mean", "mean_ci", 1, 2)
        grades.add_row(row["question"], row["method"], str(row["n"]), mean, _percent(row, "excellent", "excellent_ci"))
    agreement = Table("question", "raters", "n", "% equal [95 %]", "alpha [95 %]", title="Agreement between raters")
    for row in (row for row in results.rater_agreement if row["n"]):
        alpha = _text(row, "alpha", "alpha_ci", 1, 2)
        agreement.add_row(row["question"], str(row["raters"]), str(row["n"]), _percent(row, "equal", "equal_ci"), alpha)
    judges = Table("question", "evaluator", "n", "ties", "% agreed [95 %]", title="Agreement of evaluators with raters")
    for row in (row for row in results.evaluator_agreement if row["n"]):
        name = ANOTHER_RATER if row["version"] == ANOTHER_RATER else f"{row['evaluator']}@{row['version']}"
        cells = (str(row["n"]), str(row["evaluator_ties"]), _percent(row, "agreement", "ci"))
        judges.add_row(row["question"], name + (" (trained on)" if row["trained_on"] else ""), *cells)
    powered = Table("question", "method", "over", "with", "prompts", "% won [95 %]", "% votes saved",
                    title="Human win rates with the help of evaluators")  # fmt: skip
    for row in (row for row in results.powered if row["saved"] >= WORTH):
        name = f"{row['evaluator']}{'@' * bool(row['version'])}{row['version']}"
        prompts = f"{row['n']} of {row['n_all']}"
        cells = (prompts, _percent(row, "win_rate", "ci"), f"{100 * row['saved']:.0f}")
        powered.add_row(row["question"], row["method_a"], row["method_b"], name, *cells)
    for table in (wins, grades, agreement, judges, powered):
        if table.row_count:
            console.print(table)
    if results.powered and not powered.row_count:
        told = f"no evaluator would save {100 * WORTH:.0f} % of the votes: their help is hardly worth it"
        console.print(told, soft_wrap=True, markup=False)
    console.print(
        f"tables in {results.folder.path}; stages=[report] joins them to the others", soft_wrap=True, markup=False
    )


def _percent(row: TableRow, name: str, interval: str) -> str:
    return _text(row, name, interval, 100, 1)


def _text(row: TableRow, name: str, interval: str, scale: float, digits: int) -> str:
    value, low, high = (row[key] for key in (name, f"{interval}_low", f"{interval}_high"))
    if np.isnan(value):
        return ""
    text = f"{scale * value:.{digits}f}"
    return text if np.isnan(low) else f"{text} [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"
