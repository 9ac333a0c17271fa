"""Tell the page what the tables hold: figures in display scale to sort and draw by, and the texts of the tables."""

import math
from collections import defaultdict
from collections.abc import Iterable

from alignbench.report.cards.beside import agreement_text
from alignbench.report.columns import TableRow
from alignbench.report.comparison import ALL
from alignbench.report.display import (
    Grid,
    TableSection,
    cost_grid,
    mean_ranks,
    published_grid,
    section_notes,
    start_grid,
)
from alignbench.report.figures import (
    MARKS,
    is_data,
    marks,
    percent,
    score_text,
    significance,
    strength_text,
    win_text,
)
from alignbench.report.further_tables.reproductions import NOTE, reproduction_grid
from alignbench.report.page.store import PageData, Store
from alignbench.report.sensitivity.best import UNITS
from alignbench.report.tables import Tables
from alignbench.store.image_records import SamplingRecord
from alignbench.store.manifest import BASE
from alignbench.store.reward_model_folder import DISTANCE
from alignbench.store.scores import ScoreInfo, Summary


def section_entry(tables: Tables, section: TableSection, store: Store) -> PageData:
    """Return all figures of one model and prompt set; those of its styles or categories lie in a file of their own."""
    key = (section.model, section.prompt_set)
    number = {evaluator: i for i, evaluator in enumerate(section.evaluators)}
    everywhere = _marks_of_all(list(section.rows.values()))
    parts: dict[str, list[PageData]] = defaultdict(list)
    for row in tables.leaderboard:
        if (row["model"], row["prompt_set"]) == key and row["group"] != ALL:
            evaluator = (row["evaluator"], row["version"])
            parts[row["group"]].append(_row(row, number[evaluator], section.infos[evaluator], everywhere))
    groups = [{"group": group, "rows": rows} for group, rows in parts.items()]
    return {
        "model": section.model,
        "promptSet": section.prompt_set,
        "promptName": tables.prompt_names[section.prompt_set],
        "marks": everywhere,
        "sampling": _sampling(tables.samplings[key]),
        "evaluators": [_evaluator(tables, section, evaluator) for evaluator in section.evaluators],
        "methods": _methods(section),
        "rows": [
            {
                **_row(row, number[evaluator], section.infos[evaluator], everywhere),
                **_strength(section, method, evaluator),
            }
            for (method, evaluator), row in section.rows.items()
        ],
        "wins": [
            win
            for row in tables.win_rates
            if (row["model"], row["prompt_set"], row["group"]) == (*key, ALL)
            for win in _both_ways(row, number[row["evaluator"], row["version"]], _stars(row, section))
        ],
        "runScores": _run_scores(tables, section),
        "published": _published(section),
        "publishedTable": grid_entry(published_grid(section)) if section.matches else None,
        "startTable": grid_entry(start_grid(section)) if section.over_start else None,
        "cost": grid_entry(cost_grid(section)),
        "notes": [{"kind": kind, "text": text} for kind, text in section_notes(section)],
        "groups": store.script(f"groups-{section.model}-{section.prompt_set}", groups) if groups else None,
    }


def _marks_of_all(rows: list[TableRow]) -> list[str]:
    """Return the marks that all rows bear to which they can apply; base has no training seed and no looks."""
    of_trained = [row for row in rows if row["method"] != BASE]
    return [
        mark
        for name, mark in MARKS.items()
        if (able := of_trained if name in ("seed", "looks") else rows) and all(mark in marks(row) for row in able)
    ]


def _sampling(record: SamplingRecord) -> str:
    """Say how the images were made, as far as it is known."""
    if not record.num_inference_steps:
        return "images that existed already: how they were made is not known"
    guidance = "no guidance" if record.guidance_scale is None else f"guidance {record.guidance_scale:g}"
    noise = "each prompt its own noise" if record.noise == "per_prompt" else "the same noise for every prompt"
    return f"{record.num_inference_steps} steps, {guidance}, {noise}, the same for all methods"


def _evaluator(tables: Tables, section: TableSection, evaluator: tuple[str, str]) -> PageData:
    """Return what the page knows of an evaluator, with the decimals of an image's score: 3 digits of their spread."""
    info = section.infos[evaluator]
    first = tables.contenders[section.model, section.prompt_set, *evaluator][0].runs[0].scores.score
    spread = info.display_scale * float(first.std())
    digits = min(max(2 - math.floor(math.log10(spread)), 0), 4) if spread > 0 else 3
    return {
        "key": "@".join(evaluator),
        "head": section.head(evaluator),
        "summary": info.summary,
        "higherIsBetter": info.higher_is_better,
        "isQuality": not info.evaluator.endswith(DISTANCE),
        "scale": info.display_scale,
        "digits": digits,
        **({"agreement": agreement_text(section.cards[evaluator])} if evaluator in section.cards else {}),
    }


def _methods(section: TableSection) -> list[PageData]:
    ranks = mean_ranks(section)
    methods = []
    for method in section.methods:
        row = next(row for (name, _), row in section.rows.items() if name == method)
        methods.append(
            {
                "method": method,
                "isBase": method == BASE,
                "isData": is_data(method),
                "runs": row["run"].split(),
                "meanRank": {"value": ranks[method], "text": f"{ranks[method]:.2f}"} if method in ranks else None,
                "spent": {unit: row[unit] for unit in UNITS},
            }
        )
    return methods


def _run_scores(tables: Tables, section: TableSection) -> dict[str, list[float | None]]:
    """Return the median or mean score of each run as it was trained, by evaluator; None where it has no score."""
    found: dict[str, list[float | None]] = defaultdict(lambda: [None] * len(section.evaluators))
    for number, evaluator in enumerate(section.evaluators):
        for contender in tables.contenders[section.model, section.prompt_set, *evaluator]:
            for run in contender.runs:
                if run.sampling.strength == 1:
                    found[run.manifest.run][number] = run.summary
    return found


def _row(row: TableRow, evaluator: int, info: ScoreInfo, everywhere: list[str]) -> PageData:
    """Return the figures of a row, with the marks that do not hold `everywhere`; base wins half over itself."""
    win = _figure(row["win_rate_vs_base"], (row["win_ci_low"], row["win_ci_high"]), 100, win_text(row))
    return {
        "method": row["method"],
        "evaluator": evaluator,
        "n": row["n"],
        "marks": [mark for mark in marks(row) if mark not in everywhere],
        "trainedOn": row["trained_on"],
        "isData": is_data(row["method"]),
        "score": _score(row, info.summary, info),
        "mean": _score(row, "mean", info),
        "win": {
            **(win if row["method"] != BASE else _figure(0.5, (0.5, 0.5), 100, "50")),
            "stars": significance(row),
        },
    }


def _score(row: TableRow, summary: Summary, info: ScoreInfo) -> PageData:
    interval = (row[f"{summary}_ci_low"], row[f"{summary}_ci_high"])
    return _figure(row[summary], interval, info.display_scale, score_text(row, info, summary))


def _strength(section: TableSection, method: str, evaluator: tuple[str, str]) -> PageData:
    row = section.ranking.get((method, evaluator))
    if row is None:
        return {}
    return {"strength": _figure(row["strength"], (row["ci_low"], row["ci_high"]), 1, strength_text(row))}


def _figure(value: float, interval: tuple[float, float], scale: float, text: str) -> PageData:
    return {"value": scale * value, "low": scale * interval[0], "high": scale * interval[1], "text": text}


def _stars(row: TableRow, section: TableSection) -> str:
    """Return the stars of a pair: those of the leaderboard for a pair with base, so that a figure has the same ones."""
    a, b, evaluator = row["method_a"], row["method_b"], (row["evaluator"], row["version"])
    if BASE not in (a, b):
        return significance(row)
    return significance(section.rows.get((a if b == BASE else b, evaluator), row))


def _both_ways(row: TableRow, evaluator: int, stars: str) -> Iterable[PageData]:
    """A win rate as that of either method over the other."""
    share, low, high = row["win_rate"], row["ci_low"], row["ci_high"]
    for a, b, value, interval in (
        (row["method_a"], row["method_b"], share, (low, high)),
        (row["method_b"], row["method_a"], 1 - share, (1 - high, 1 - low)),
    ):
        figure = _figure(value, interval, 100, percent(value, interval))
        yield {"a": a, "b": b, "evaluator": evaluator, "n": row["n"], "stars": stars, **figure}


def _published(section: TableSection) -> list[PageData]:
    """Return the printed figures that have a column of their own, in display scale."""
    found = []
    for match in section.matches:
        entry = match.published
        if entry.opponent not in ("", BASE):
            continue
        for number, (name, version) in enumerate(section.evaluators):
            if name == entry.evaluator and entry.evaluator_version in ("", version):
                info = section.infos[name, version]
                scale = 100 if entry.opponent else info.display_scale
                found += [
                    {
                        "method": match.method,
                        "evaluator": number,
                        "measure": measure,
                        "paper": entry.paper,
                        "text": f"{scale * entry.value / entry.scale:.6g}",
                        "source": f"{entry.paper}, arXiv {entry.arxiv_id}, {entry.table}: {match.verdict}",
                    }
                    for measure in _measures(entry.statistic, info)
                ]
    return found


def _measures(statistic: str, info: ScoreInfo) -> list[str]:
    """Return the measures of the page beside which a printed figure stands."""
    measures = {"score": info.summary, "mean": "mean", "win": "win_rate"}
    return [measure for measure, shown in measures.items() if shown == statistic]


def grid_entry(grid: Grid) -> PageData:
    """Return a table of text."""
    return {"title": grid.title, "heads": grid.heads, "rows": grid.rows}


def reproductions_entry(tables: Tables) -> PageData | None:
    """Return the verdicts on rows of published tables; None where there are none."""
    grid = reproduction_grid(tables.reproductions)
    return None if grid is None else {"table": grid_entry(grid), "note": NOTE}
