"""Rows of published tables that were run again: the verdict on each figure, as a table for people."""

from collections.abc import Sequence

from alignbench.report.display import Grid
from alignbench.report.published_tables.reproduced import FigureRecord, ReproductionRecord

TITLE = "Rows of published tables that were run again"
NOTE = (
    "A figure is reproduced if its difference from the printed one is allowed: both have sampling errors and rounding. "
    "A row is reproduced if every figure that can be compared is. Runs that were added later do not change a verdict; "
    "python -m alignbench.reproduce ROW --results FOLDER judges the row again."
)
HEADS = ["row", "figure", "printed", "here", "difference", "allowed", "verdict"]


def reproduction_grid(records: Sequence[ReproductionRecord]) -> Grid | None:
    """Return a line for each figure of each row; None where no row was judged."""
    rows = [[f"{one.row}: {one.verdict}", *_cells(figure)] for one in records for figure in one.figures]
    return Grid(TITLE, HEADS, rows) if rows else None


def _cells(one: FigureRecord) -> list[str]:
    printed = f"{one.expected:g}"
    if one.own is None:
        return [one.figure, printed, "", "", "", one.verdict]
    has_interval = one.own.low is not None and one.own.high is not None
    here = f"{one.own.value:.4g}" + (f" [{one.own.low:.4g}, {one.own.high:.4g}]" if has_interval else "")
    difference = "" if one.difference is None else f"{one.difference:+.3g}"
    return [one.figure, printed, here, difference, "" if one.allowed is None else f"{one.allowed:.3g}", one.verdict]
