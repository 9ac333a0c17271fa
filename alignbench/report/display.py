"""Lay out the tables of a model and prompt set for people: sections, grids of text, their notes and limits."""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from alignbench.report.cards.beside import NOTE, ROW, agreement_text
from alignbench.report.columns import TRIED, TableRow
from alignbench.report.comparison import ALL, CIRCLES
from alignbench.report.figures import (
    SIGNIFICANT,
    cost_cells,
    is_data,
    listed,
    marks,
    notes,
    number,
    over_text,
    percent,
    score_text,
    strength_text,
    turned,
    win_cell,
)
from alignbench.report.published_tables.reference import Match, matches
from alignbench.report.published_tables.values import load
from alignbench.report.tables import Tables
from alignbench.statistics.significance import smallest_significant
from alignbench.store.cards import Card
from alignbench.store.manifest import BASE
from alignbench.store.reward_model_folder import DISTANCE
from alignbench.store.scores import ScoreInfo


@dataclass(frozen=True)
class Grid:
    """A table of text: column heads, and rows of as many cells."""

    title: str
    heads: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class TableSection:
    """What is shown of one model and prompt set: the rows of group `all`, by method and evaluator.

    Attributes:
        prompt_name: how texts call the prompt set.
        over_start: rows of `win_rates.csv` of methods over what their training started from, where that is not base.
        guidance: rows of `guidance.csv`.
        limits: sentences on what the figures cannot tell.
        cards: of the evaluators that have one.
    """

    model: str
    prompt_set: str
    prompt_name: str
    rows: dict[tuple[str, tuple[str, str]], TableRow]
    infos: dict[tuple[str, str], ScoreInfo]
    ranking: dict[tuple[str, tuple[str, str]], TableRow]
    matches: list[Match]
    over_start: dict[tuple[str, tuple[str, str]], TableRow]
    guidance: list[TableRow]
    limits: list[str]
    cards: dict[tuple[str, str], Card]

    @property
    def where(self) -> str:
        """The model and the prompt set in words."""
        return f"{self.model}, {self.prompt_name}"

    @property
    def evaluators(self) -> list[tuple[str, str]]:
        return sorted({evaluator for _, evaluator in self.rows})

    @property
    def methods(self) -> list[str]:
        """Best mean rank first; methods without a rank last."""
        ranks = mean_ranks(self)
        names = {method for method, _ in self.rows}
        return sorted(names, key=lambda name: (ranks.get(name, math.inf), name != BASE, name))

    def head(self, evaluator: tuple[str, str]) -> str:
        """Name an evaluator, with its version where two are shown and an arrow for the better direction."""
        name, version = evaluator
        versions = sum(other == name for other, _ in self.evaluators)
        arrow = "↑" if self.infos[evaluator].higher_is_better else "↓"
        return f"{name} {arrow}" if versions == 1 else f"{name}@{version} {arrow}"

    def score_head(self, evaluator: tuple[str, str]) -> str:
        """Name an evaluator above its scores, and say so if these are means."""
        return self.head(evaluator) + (", mean" if self.infos[evaluator].summary == "mean" else "")

    def summary(self, evaluators: Iterable[tuple[str, str]]) -> str:
        """Say which figure these evaluators are shown by: `median`, `mean`, or `median or mean`."""
        return " or ".join(sorted({self.infos[evaluator].summary for evaluator in evaluators}, reverse=True))


def sections(tables: Tables) -> list[TableSection]:
    """Cut the leaderboard into what is comparable."""
    parts: dict[tuple[str, str], dict[tuple[str, tuple[str, str]], TableRow]] = defaultdict(dict)
    for row in tables.leaderboard:
        if row["group"] == ALL:
            parts[row["model"], row["prompt_set"]][row["method"], (row["evaluator"], row["version"])] = row
    ranking: dict[tuple[str, str], dict[tuple[str, tuple[str, str]], TableRow]] = defaultdict(dict)
    for row in tables.ranking:
        ranking[row["model"], row["prompt_set"]][row["method"], (row["evaluator"], row["version"])] = row
    published = load()
    return [
        TableSection(
            *key,
            tables.prompt_names[key[1]],
            rows,
            tables.evaluators,
            ranking[key],
            matches(tables, *key, published),
            _over_start(tables, rows),
            [row for row in tables.guidance if (row["model"], row["prompt_set"]) == key],
            _limits(tables, *key),
            {evaluator: card for evaluator, card in tables.cards.items() if any(evaluator == one for _, one in rows)},
        )
        for key, rows in sorted(parts.items())
    ]


def _over_start(
    tables: Tables, rows: dict[tuple[str, tuple[str, str]], TableRow]
) -> dict[tuple[str, tuple[str, str]], TableRow]:
    """Return the win rates of methods over their starts, each as the win rate of the method."""
    pairs = {
        (row["model"], row["prompt_set"], row["evaluator"], row["version"], row["method_a"], row["method_b"]): row
        for row in tables.win_rates
        if row["group"] == ALL
    }
    found = {}
    for (method, evaluator), row in rows.items():
        start, where = row["start"], (row["model"], row["prompt_set"], *evaluator)
        if start is None:
            continue
        if (*where, method, start) in pairs:
            found[method, evaluator] = pairs[*where, method, start]
        elif (*where, start, method) in pairs:
            found[method, evaluator] = turned(pairs[*where, start, method])
    return found


def ranking_evaluators(section: TableSection) -> list[tuple[str, str]]:
    """Return the evaluators that may rank the methods: those that no method trained on."""
    trained_on = {evaluator for (_, evaluator), row in section.rows.items() if row["trained_on"]}
    return [one for one in section.evaluators if one not in trained_on and not one[0].endswith(DISTANCE)]  # no quality


def mean_ranks(section: TableSection) -> dict[str, float]:
    """Return each method's rank by median or mean score, averaged over the evaluators that no method trained on.

    The evaluator decides which of the two. Only methods with a figure by all of these, over the same images, have a
    rank: a mean over other evaluators, or a figure over other prompts, would be another question.
    """
    held_out = {
        evaluator: [row for (_, other), row in section.rows.items() if other == evaluator]
        for evaluator in ranking_evaluators(section)
    }
    whole = [
        {row["method"] for row in rows if not row["subset"] or all(row["subset"] for row in rows)}
        for rows in held_out.values()
    ]
    methods = set.intersection(*whole) if whole else set()
    ranks: dict[str, list[float]] = defaultdict(list)
    for evaluator, rows in held_out.items():
        ranked = [row for row in rows if row["method"] in methods]
        info = section.infos[evaluator]
        direction = -1 if info.higher_is_better else 1
        for row, rank in zip(ranked, stats.rankdata([direction * row[info.summary] for row in ranked]), strict=True):
            ranks[row["method"]].append(float(rank))
    return {method: float(np.mean(values)) for method, values in ranks.items()}


def grids(section: TableSection) -> list[Grid]:
    """Return the tables of scores, win rates over base, strengths, published values, guidance, and of costs."""
    ranks = mean_ranks(section)
    heads = ["method", *map(section.head, section.evaluators)]
    score_heads = ["method", *map(section.score_head, section.evaluators), "mean rank"]
    title = f"{section.summary(section.evaluators).capitalize()} score, {section.where}"
    scores, wins = [], []
    for method in section.methods:
        cells = [section.rows.get((method, evaluator)) for evaluator in section.evaluators]
        rank = f"{ranks[method]:.2f}" if method in ranks else ""
        scores.append([method, *(_score_cell(row, section) for row in cells), rank])
        wins.append([method, *(win_cell(row) for row in cells)])
    if section.cards:
        found = [section.cards.get(evaluator) for evaluator in section.evaluators]
        wins.append([ROW, *("" if card is None else agreement_text(card) for card in found)])
    return [
        Grid(title, score_heads, scores),
        Grid(f"Win rate over base, {section.where}", heads, wins),
        *([start_grid(section)] if section.over_start else []),
        *([_strength_grid(section)] if section.ranking else []),
        *([published_grid(section)] if section.matches else []),
        *guidance_grids(section),
        cost_grid(section),
    ]


def section_notes(section: TableSection) -> list[tuple[str, str]]:
    """The sentences that explain the tables of a section, each with the kind of what it explains."""
    shown = {
        "win": True,
        "strength": bool(section.ranking),
        "published": bool(section.matches),
        "guidance": bool(section.guidance),
        "data": any(is_data(method) for method, _ in section.rows),
        "tried": any(TRIED in row for row in section.rows.values()),
    }
    found = [*notes(section.rows.values(), [kind for kind, holds in shown.items() if holds]).items()]
    if mean_ranks(section):
        names = [evaluator for evaluator, _ in ranking_evaluators(section)]
        kind = section.summary(ranking_evaluators(section))
        of = (
            f"the {kind} score by {names[0]}, the only evaluator"
            if len(names) == 1
            else f"the {kind} scores by {listed(names)}, the evaluators"
        )
        found.append(("rank", f"mean rank: of {of} that no compared method trained on"))
    cards = [("cards", NOTE)] if section.cards else []
    return [*found, *cards, *(("limits", text) for text in section.limits)]


def grid_notes(section: TableSection) -> list[str]:
    """The sentences that explain the tables of a section."""
    return [text for _, text in section_notes(section)]


def _limits(tables: Tables, model: str, prompt_set: str) -> list[str]:
    """Say what polls are worth, how videos are scored, and what so few prompts and training seeds can show."""
    key, found = (model, prompt_set), list(tables.poll_remarks.get((model, prompt_set.partition("@")[0]), []))
    sampling = tables.samplings[key]
    if sampling.frames is not None:
        found.append(
            f"the score of a video is the mean over all its {sampling.num_frames} frames; image statistics and "
            "diversity are those of its middle frame"
        )
    num_shared, full_size = tables.num_shared.get(key, math.inf), sampling.full_size
    if num_shared < full_size:
        found.append(f"medians and means are over {num_shared} of {full_size} prompts, which all compared runs have")
    found += [*tables.borderline_told(model, prompt_set), *tables.capsules_told(model, prompt_set)]
    if (distance := significant_distance(tables, model, prompt_set)) is not None:
        tested = _tested(tables, key)
        seeds = sorted({row["num_seeds"] for row in tested if row["num_seeds"] > 1})
        needs = (
            f"a win rate about {distance:.0f} points from 50" if distance < 50 else "more than any win rate can show"
        )
        together = f"{len(tested)} rows" if len(tested) > 1 else "1 row"
        found.append(
            f"with {' or '.join(map(str, seeds))} training seeds and {together} tested together, significance needs "
            f"{needs}; more seeds help, more prompts hardly (docs/statistics.md)"
        )
    return found


def significant_distance(tables: Tables, model: str, prompt_set: str) -> float | None:
    """Return about how many points from 50 a win rate over base must be to be significant over training seeds.

    50 and more is more than any win rate can show; None where no method was trained several times.
    """
    key = (model, prompt_set)
    over_base = [of for (*where, _, _), of in tables.over_base.items() if tuple(where) == key]
    levels = [one.levels for of in over_base for one in of.values() if one.levels and not math.isnan(one.p_win)]
    if not levels:
        return None
    limit = SIGNIFICANT / len(_tested(tables, key))
    return 50 * float(np.median([smallest_significant(one, limit) for one in levels]))


def _tested(tables: Tables, key: tuple[str, str]) -> list[TableRow]:
    """Return the rows of a model and prompt set whose win rate over base is tested over training seeds."""
    return [
        row for row in tables.leaderboard if (row["model"], row["prompt_set"]) == key and not math.isnan(row["p_win"])
    ]


def _strength_grid(section: TableSection) -> Grid:
    """Methods, then how well the strengths explain who beats whom."""
    rows = []
    for method in section.methods:
        found = [section.ranking.get((method, evaluator)) for evaluator in section.evaluators]
        if any(found):
            rows.append([method, *(_strength_cell(row, section) for row in found)])
    gaps, circles = [], []
    for evaluator in section.evaluators:
        found = [row for (_, other), row in section.ranking.items() if other == evaluator]
        gaps.append(f"{100 * max(row['fit_gap'] for row in found):.1f}" if found else "")
        told = {text for row in found for text in row["intransitive"].split(CIRCLES)} - {""}
        circles.append(CIRCLES.join(sorted(told)) or "none")
    rows += [["largest gap to observed win rates, %", *gaps], ["beat each other in a circle", *circles]]
    heads = ["method", *map(section.head, section.evaluators)]
    return Grid(f"Strength and rank, {section.where}", heads, rows)


def _strength_cell(row: TableRow | None, section: TableSection) -> str:
    if row is None:
        return ""
    measured = section.rows[row["method"], (row["evaluator"], row["version"])]
    return " ".join([strength_text(row), *filter(None, [",".join(marks(measured))])])


def published_grid(section: TableSection) -> Grid:
    """Return the printed figures that ours have a counterpart of, with the gap and what it says."""
    rows = []
    for match in section.matches:
        entry, own = match.published, match.own
        statistic = f"win rate over {entry.opponent}, %" if entry.opponent else entry.statistic
        gap = "" if math.isnan(match.gap) else f"{match.gap:+.1f}"
        source = f"{entry.paper}, arXiv {entry.arxiv_id}, {entry.table}"
        cells = [number(own.value, (own.low, own.high)), f"{entry.value:g}", gap, match.verdict, source]
        rows.append([match.method, entry.evaluator, statistic, *cells])
    heads = ["method", "evaluator", "figure", "here", "published", "gap", "verdict", "source"]
    return Grid(f"Published values, {section.where}", heads, rows)


def start_grid(section: TableSection) -> Grid:
    """Return the win rates of methods over what their training started from."""
    rows = []
    for method in section.methods:
        found = [section.over_start.get((method, evaluator)) for evaluator in section.evaluators]
        if start := next((row["method_b"] for row in found if row), None):
            rows.append([method, start, *("" if row is None else over_text(row) for row in found)])
    heads = ["method", "start", *map(section.head, section.evaluators)]
    return Grid(f"Win rate over the start, {section.where}", heads, rows)


def guidance_grids(section: TableSection) -> list[Grid]:
    """Return, for each evaluator, the win rates over base at each of its scales of guidance; the best is marked."""
    found = []
    for evaluator in section.evaluators:
        rows = [row for row in section.guidance if (row["evaluator"], row["version"]) == evaluator]
        scales = sorted({row["base_guidance_scale"] for row in rows})
        best = {row["base_guidance_scale"] for row in rows if row["best"]}
        over = {(row["method"], row["base_guidance_scale"]): row for row in rows}
        cells = [
            [method, *(_over_base_at(scale, method, over) for scale in scales)]
            for method in section.methods
            if any(name == method for name, _ in over)
        ]
        if cells:
            heads = ["method", *(f"base at {scale:g}{' (best)' if scale in best else ''}" for scale in scales)]
            title = f"Win rate over base at other guidance, {section.head(evaluator)}, {section.where}"
            found.append(Grid(title, heads, cells))
    return found


def _over_base_at(scale: float, method: str, over: dict[tuple[str, float], TableRow]) -> str:
    row = over.get((method, scale))
    if row is None:
        return "50" if method == BASE else ""
    return percent(row["win_rate"], (row["ci_low"], row["ci_high"]))


def cost_grid(section: TableSection) -> Grid:
    """Return what the runs of each method cost."""
    rows = [
        [method, *cost_cells(next(row for (name, _), row in section.rows.items() if name == method))]
        for method in section.methods
    ]
    counts = ["network passes", "updates", "samples", "reward calls"]
    heads = ["method", "seeds", *counts, "train time", "device hours", "peak GiB"]
    if any(TRIED in row for row in section.rows.values()):
        heads.append(TRIED)
    return Grid(f"Cost, {section.where}", heads, rows)


def _score_cell(row: TableRow | None, section: TableSection) -> str:
    if row is None:
        return ""
    info = section.infos[row["evaluator"], row["version"]]
    return " ".join([score_text(row, info), *filter(None, [",".join(marks(row))])])
