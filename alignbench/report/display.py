"""Turn table rows into text for people: figures with their interval, marks of significance, rankings."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from alignbench.report.columns import TableRow
from alignbench.report.comparison import ALL, CIRCLES
from alignbench.report.reference import Match, load, matches
from alignbench.report.tables import Tables
from alignbench.statistics.significance import smallest_significant
from alignbench.store.manifest import BASE, DATA
from alignbench.store.reward_model_folder import DISTANCE
from alignbench.store.scores import ScoreInfo
from alignbench.text import duration

SIGNIFICANT = 0.05
STARS = {0.001: "***", 0.01: "**", SIGNIFICANT: "*"}
NOTES = {
    "win": "win rate over base in %, ties half; *** p < 0.001, ** p < 0.01, * p < 0.05, n.s. not significant, over "
    "prompts and training seeds, adjusted by Holm for all rows of the model and prompt set; brackets: 95 % intervals "
    "of the row alone",
    "strength": "strength: Bradley-Terry, in units of 400 / ln 10, base at 0: 100 above wins 64 % of images; in "
    "parentheses the rank, 1 + the number of methods whose difference in strength has a 95 % interval above 0",
    "published": "gap to published values in half-widths of our interval; "
    "see alignbench/report/published_tables/README.md",
    "seed": "a: one training seed, which cannot tell whether another training would differ from base as well; interval "
    "and stars in parentheses hold for these weights alone",
    "trained_on": "b: the method trained on this evaluator: on its scores or labels, or on data that it learned from; "
    "mean ranks leave the evaluator out for all methods",
    "subset": "c: fewer prompts than the full set",
    "data": "data: real images of the same prompts, which no model made",
}
WIN_RATE = ("ci_low", "win_rate", "ci_high")
MARKS = {"seed": "a", "trained_on": "b", "subset": "c"}


def number(value: float, interval: tuple[float, float], scale: float = 1.0) -> str:
    """Write `value [low, high]` with two digits of the interval's half-width; no brackets without an interval."""
    low, high = interval
    half_width = scale * (high - low) / 2
    digits = 3 if not half_width > 0 else min(max(1 - math.floor(math.log10(half_width)), 0), 4)
    text = f"{scale * value:z.{digits}f}"
    return text if math.isnan(half_width) else f"{text} [{scale * low:z.{digits}f}, {scale * high:z.{digits}f}]"


def median_text(row: TableRow, info: ScoreInfo) -> str:
    """The median score in display scale with its interval."""
    return number(row["median"], (row["median_ci_low"], row["median_ci_high"]), info.display_scale)


def mean_text(row: TableRow, info: ScoreInfo) -> str:
    """The mean score in display scale with its interval."""
    return number(row["mean"], (row["mean_ci_low"], row["mean_ci_high"]), info.display_scale)


def percent(share: float, interval: tuple[float, float]) -> str:
    """Write a share of 0..1 as `value [low, high]` in percent; nothing where there is none."""
    value, low, high = (100 * end for end in (share, *interval))
    if math.isnan(value):
        return ""
    return f"{value:.1f}" if math.isnan(low) else f"{value:.1f} [{low:.1f}, {high:.1f}]"


def win_text(row: TableRow) -> str:
    """The win rate over base in percent with its interval; empty where there is no base."""
    return percent(row["win_rate_vs_base"], (row["win_ci_low"], row["win_ci_high"]))


def strength_text(row: TableRow) -> str:
    """The strength with its interval, and the rank in parentheses where there is one."""
    rank = [] if row["rank"] is None else [f"({row['rank']})"]
    return " ".join([number(row["strength"], (row["ci_low"], row["ci_high"])), *rank])


def significance(row: TableRow, p_value: str = "p_win") -> str:
    """Return stars, `n.s.`, or nothing where nothing was tested.

    Stars stand in parentheses where a method was trained once: they hold for these weights, whatever another training
    would give.

    Args:
        p_value: the column that it is about; the same for these weights is `<column>_weights`.
    """
    if not math.isnan(row[p_value]):
        return stars(row[p_value])
    given = stars(row[f"{p_value}_weights"])
    return f"({given})" if "*" in given else given


def stars(p: float) -> str:
    """Return the stars of an adjusted p-value, `n.s.`, or nothing for NaN."""
    return "" if math.isnan(p) else next((text for limit, text in STARS.items() if p < limit), "n.s.")


def marks(row: TableRow) -> list[str]:
    """The letters of the notes that apply to a row."""
    applies = {
        "seed": row["num_seeds"] == 1 and row["method"] != BASE and not is_data(row["method"]),
        "trained_on": row["trained_on"],
        "subset": row["subset"],
    }
    return [MARKS[name] for name, holds in applies.items() if holds]


def notes(rows: Iterable[TableRow], kinds: Sequence[str] = ("win",)) -> dict[str, str]:
    """The sentences that explain the brackets, stars and letters of these rows, for these kinds of tables, by kind."""
    used = {mark for row in rows for mark in marks(row)}
    return {name: NOTES[name] for name in (*kinds, *(name for name, mark in MARKS.items() if mark in used))}


def listed(parts: Sequence[str]) -> str:
    """Join parts as in a sentence.

    >>> listed(["clip", "hpsv2", "people"])
    'clip, hpsv2 and people'
    """
    *before, last = parts
    return f"{', '.join(before)} and {last}" if before else last


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
        over_start: rows of `win_rates.csv` of methods over what their training started from, where that is not base.
        limits: sentences on what the figures cannot tell.
    """

    model: str
    prompt_set: str
    rows: dict[tuple[str, tuple[str, str]], TableRow]
    infos: dict[tuple[str, str], ScoreInfo]
    ranking: dict[tuple[str, tuple[str, str]], TableRow]
    matches: list[Match]
    over_start: dict[tuple[str, tuple[str, str]], TableRow]
    limits: list[str]

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
            rows,
            tables.evaluators,
            ranking[key],
            matches(tables, *key, published),
            _over_start(tables, rows),
            _limits(tables, *key),
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


def turned(row: TableRow) -> TableRow:
    """Return a row of `win_rates.csv` as that of the second method over the first."""
    turned_round = {name: 1 - row[other] for name, other in zip(WIN_RATE, reversed(WIN_RATE), strict=True)}
    wins = row["n"] - row["wins"] - row["ties"]
    return {**row, **turned_round, "method_a": row["method_b"], "method_b": row["method_a"], "wins": wins}


def over_text(row: TableRow) -> str:
    """The win rate of a row of `win_rates.csv` in percent, with its interval and stars."""
    return " ".join([percent(row["win_rate"], (row["ci_low"], row["ci_high"])), significance(row)])


def ranking_evaluators(section: TableSection) -> list[tuple[str, str]]:
    """Return the evaluators that may rank the methods: those that no method trained on."""
    trained_on = {evaluator for (_, evaluator), row in section.rows.items() if row["trained_on"]}
    return [one for one in section.evaluators if one not in trained_on and not one[0].endswith(DISTANCE)]  # no quality


def mean_ranks(section: TableSection) -> dict[str, float]:
    """Return each method's rank by median, averaged over the evaluators that no method trained on.

    Only methods with a figure by all of these, over the same images, have one: a mean over other evaluators, or a
    median over other prompts, would be another question.
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
        direction = -1 if section.infos[evaluator].higher_is_better else 1
        for row, rank in zip(ranked, rankdata([direction * row["median"] for row in ranked]), strict=True):
            ranks[row["method"]].append(float(rank))
    return {method: float(np.mean(values)) for method, values in ranks.items()}


def grids(section: TableSection) -> list[Grid]:
    """Return the tables of medians, win rates over base, strengths, published values, and of what the runs cost."""
    ranks = mean_ranks(section)
    heads = ["method", *map(section.head, section.evaluators)]
    medians, wins = [], []
    for method in section.methods:
        cells = [section.rows.get((method, evaluator)) for evaluator in section.evaluators]
        rank = f"{ranks[method]:.2f}" if method in ranks else ""
        medians.append([method, *(_median_cell(row, section) for row in cells), rank])
        wins.append([method, *(_win_cell(row) for row in cells)])
    heading = f"{section.model}, {section.prompt_set}"
    return [
        Grid(f"Median score, {heading}", [*heads, "mean rank"], medians),
        Grid(f"Win rate over base, {heading}", heads, wins),
        *([start_grid(section)] if section.over_start else []),
        *([_strength_grid(section)] if section.ranking else []),
        *([published_grid(section)] if section.matches else []),
        cost_grid(section),
    ]


def section_notes(section: TableSection) -> list[tuple[str, str]]:
    """The sentences that explain the tables of a section, each with the kind of what it explains."""
    shown = {
        "win": True,
        "strength": bool(section.ranking),
        "published": bool(section.matches),
        "data": any(is_data(method) for method, _ in section.rows),
    }
    found = [*notes(section.rows.values(), [kind for kind, holds in shown.items() if holds]).items()]
    if mean_ranks(section):
        names = [evaluator for evaluator, _ in ranking_evaluators(section)]
        of = (
            f"the median score by {names[0]}, the only evaluator"
            if len(names) == 1
            else f"the median scores by {listed(names)}, the evaluators"
        )
        found.append(("rank", f"mean rank: of {of} that no compared method trained on"))
    return [*found, *(("limits", text) for text in section.limits)]


def grid_notes(section: TableSection) -> list[str]:
    """The sentences that explain the tables of a section."""
    return [text for _, text in section_notes(section)]


def is_data(label: str) -> bool:
    """Say whether a row is of real images."""
    return label.partition("@")[0] == DATA


def _limits(tables: Tables, model: str, prompt_set: str) -> list[str]:
    """Say over how many prompts figures are where that is not all, and what so few training seeds can show."""
    key, found = (model, prompt_set), list(tables.uncounted_studies.get((model, prompt_set.partition("@")[0]), []))
    num_shared, full_size = tables.num_shared.get(key, math.inf), tables.samplings[key].full_size
    if num_shared < full_size:
        found.append(f"medians and means are over {num_shared} of {full_size} prompts, which all compared runs have")
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
    return Grid(f"Strength and rank, {section.model}, {section.prompt_set}", heads, rows)


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
    return Grid(f"Published values, {section.model}, {section.prompt_set}", heads, rows)


def start_grid(section: TableSection) -> Grid:
    """Return the win rates of methods over what their training started from."""
    rows = []
    for method in section.methods:
        found = [section.over_start.get((method, evaluator)) for evaluator in section.evaluators]
        if start := next((row["method_b"] for row in found if row), None):
            rows.append([method, start, *("" if row is None else over_text(row) for row in found)])
    heads = ["method", "start", *map(section.head, section.evaluators)]
    return Grid(f"Win rate over the start, {section.model}, {section.prompt_set}", heads, rows)


def cost_grid(section: TableSection) -> Grid:
    """Return what the runs of each method cost."""
    rows = [
        _cost_cells(method, next(row for (name, _), row in section.rows.items() if name == method))
        for method in section.methods
    ]
    counts = ["network passes", "updates", "samples", "reward calls"]
    heads = ["method", "seeds", *counts, "train time", "device hours", "peak GiB"]
    return Grid(f"Cost, {section.model}, {section.prompt_set}", heads, rows)


def _median_cell(row: TableRow | None, section: TableSection) -> str:
    if row is None:
        return ""
    info = section.infos[row["evaluator"], row["version"]]
    return " ".join([median_text(row, info), *filter(None, [",".join(marks(row))])])


def _win_cell(row: TableRow | None) -> str:
    if row is not None and row["method"] == BASE:
        return "50"  # it wins half over itself
    if row is None or not win_text(row):
        return ""
    return " ".join(filter(None, [win_text(row), significance(row), ",".join(marks(row))]))


def _cost_cells(method: str, row: TableRow) -> list[str]:
    counts = (f"{row[name]:,.0f}" for name in ("network_passes", "optimizer_steps", "samples_seen", "reward_calls"))
    memory = f"{row['peak_memory_gib']:.2f}"
    return [
        method,
        str(row["num_seeds"]),
        *counts,
        duration(row["train_seconds"]),
        hours_text(row["device_hours"]),
        memory,
    ]


def cost_text(row: TableRow) -> str:
    """Say what training cost; empty where nothing was trained."""
    if not row["optimizer_steps"]:
        return ""
    passes, hours = f"{row['network_passes']:,.0f} network passes", f"{hours_text(row['device_hours'])} device hours"
    return f"{passes}, {duration(row['train_seconds'])} of training, {hours}"


def hours_text(hours: float) -> str:
    """Write device hours with two decimals, few hours with one digit that is not 0.

    >>> hours_text(12.345), hours_text(0.000556), hours_text(0)
    ('12.35', '0.0006', '0')
    """
    if not hours:
        return "0"
    return f"{hours:.2f}" if hours >= 0.095 else f"{hours:.{-math.floor(math.log10(hours))}f}"
