"""Write the figures of a table row for people: numbers with their interval, stars, letters of notes, costs."""

import math
from collections.abc import Iterable, Sequence

from alignbench.report.columns import STOPPED_AT, TRIED, TableRow
from alignbench.store.manifest import BASE, DATA
from alignbench.store.scores import ScoreInfo, Summary
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
    "guidance": "guidance: each method as it was sampled, over base at each scale of guidance; best is the scale at "
    "which base itself wins most, by this evaluator and on these prompts. What a method gains only over base at its "
    "own scale, guidance gains without training",
    "seed": "a: one training seed, which cannot tell whether another training would differ from base as well; interval "
    "and stars in parentheses hold for these weights alone",
    "trained_on": "b: the method trained on this evaluator: on its scores or labels, or on data that it learned from; "
    "mean ranks leave the evaluator out for all methods",
    "subset": "c: fewer prompts than the full set",
    "looks": "d: measured in parts, to stop as soon as the win rate over base is significant (sampling.stop). "
    "Intervals and stars of win rates take all planned looks into account. Stopping biases the win rate itself away "
    "from 50. It is over the prompts that both methods have",
    "data": "data: real images of the same prompts, which no model made",
    "tried": "tried: settings of the method that searches tried on this model (docs/search.md); a method with more "
    "tries has an advantage",
}
WIN_RATE = ("ci_low", "win_rate", "ci_high")
MARKS = {"seed": "a", "trained_on": "b", "subset": "c", "looks": "d"}


def number(value: float, interval: tuple[float, float], scale: float = 1.0) -> str:
    """Write `value [low, high]` with two digits of the interval's half-width; no brackets without an interval."""
    low, high = interval
    half_width = scale * (high - low) / 2
    digits = 3 if not half_width > 0 else min(max(1 - math.floor(math.log10(half_width)), 0), 4)
    text = f"{scale * value:z.{digits}f}"
    return text if math.isnan(half_width) else f"{text} [{scale * low:z.{digits}f}, {scale * high:z.{digits}f}]"


def score_text(row: TableRow, info: ScoreInfo, summary: Summary | None = None) -> str:
    """The median or mean score in display scale with its interval.

    Args:
        summary: which of the two; by default the one that the evaluator is shown by.
    """
    summary = summary or info.summary
    return number(row[summary], (row[f"{summary}_ci_low"], row[f"{summary}_ci_high"]), info.display_scale)


def percent(share: float, interval: tuple[float, float]) -> str:
    """Write a share of 0..1 as `value [low, high]` in percent; nothing where there is none."""
    value, low, high = (100 * end for end in (share, *interval))
    if math.isnan(value):
        return ""
    return f"{value:.1f}" if math.isnan(low) else f"{value:.1f} [{low:.1f}, {high:.1f}]"


def win_text(row: TableRow) -> str:
    """The win rate over base in percent with its interval; empty where there is no base."""
    return percent(row["win_rate_vs_base"], (row["win_ci_low"], row["win_ci_high"]))


def win_cell(row: TableRow | None) -> str:
    """Return the win rate over base with its stars and notes, 50 for base itself; empty where there is none."""
    if row is not None and row["method"] == BASE:
        return "50"
    if row is None or not win_text(row):
        return ""
    return " ".join(filter(None, [win_text(row), significance(row), ",".join(marks(row))]))


def cost_cells(row: TableRow) -> list[str]:
    """Return what the runs of a method cost: number of seeds, what was counted, times, memory, settings tried."""
    counts = (f"{row[name]:,.0f}" for name in ("network_passes", "optimizer_steps", "samples_seen", "reward_calls"))
    memory = f"{row['peak_memory_gib']:.2f}" if row["optimizer_steps"] else ""  # nothing was trained, nor measured
    return [
        str(row["num_seeds"]),
        *counts,
        duration(row["train_seconds"]),
        hours_text(row["device_hours"]),
        memory,
        *([f"{row[TRIED] or ''}"] if TRIED in row else []),
    ]


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


def direction(row: TableRow) -> int:
    """Return 1 where a win rate is significantly above one half, -1 where it is below, else 0.

    Args:
        row: of the leaderboard, or of `win_rates.csv`.
    """
    share = _win_rate(row)
    return (share > 0.5) - (share < 0.5) if "*" in significance(row) else 0


def share_text(row: TableRow) -> str:
    """Write the win rate of a row of either table in percent with its stars, as in `95.0 % (***)`."""
    return f"{percent(_win_rate(row), (math.nan, math.nan))} % {significance(row)}"


def _win_rate(row: TableRow) -> float:
    return row["win_rate_vs_base"] if "win_rate_vs_base" in row else row["win_rate"]


def stars(p: float) -> str:
    """Return the stars of an adjusted p-value, `n.s.`, or nothing for NaN."""
    return "" if math.isnan(p) else next((text for limit, text in STARS.items() if p < limit), "n.s.")


def marks(row: TableRow) -> list[str]:
    """The letters of the notes that apply to a row."""
    applies = {
        "seed": row["num_seeds"] == 1 and row["method"] != BASE and not is_data(row["method"]),
        "trained_on": row["trained_on"],
        "subset": row["subset"],
        "looks": bool(row.get(STOPPED_AT)),
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


def turned(row: TableRow) -> TableRow:
    """Return a row of `win_rates.csv` as that of the second method over the first."""
    turned_round = {name: 1 - row[other] for name, other in zip(WIN_RATE, reversed(WIN_RATE), strict=True)}
    wins = row["n"] - row["wins"] - row["ties"]
    return {**row, **turned_round, "method_a": row["method_b"], "method_b": row["method_a"], "wins": wins}


def over_text(row: TableRow) -> str:
    """The win rate of a row of `win_rates.csv` in percent, with its interval and stars."""
    return " ".join([percent(row["win_rate"], (row["ci_low"], row["ci_high"])), significance(row)])


def is_data(label: str) -> bool:
    """Say whether a row is of real images."""
    return label.partition("@")[0] == DATA


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
