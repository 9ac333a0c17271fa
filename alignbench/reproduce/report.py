"""What a row came to: as lines at a terminal, and as a record in the results folder."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import alignbench
from alignbench.report.published_tables.reproduced import FigureRecord, OwnFigure, ReproductionRecord
from alignbench.reproduce.finished import Found, measure
from alignbench.reproduce.listing import WIDTH, aligned
from alignbench.reproduce.rows import Row
from alignbench.reproduce.verdict import (
    DIFFERS,
    NOT_COMPARABLE,
    NOT_MEASURED,
    REPRODUCED,
    FigureVerdict,
    judge,
    overall,
)

HEADS = ("figure", "printed", "here", "95 % interval", "gap", "allowed", "verdict")


def conclude(row: Row, results: Path) -> Iterator[str]:
    """Judge a row by the finished runs of a results folder: yield the verdict as lines, then write it there.

    Raises:
        UserError: the folder holds no run of the row.
    """
    found, measured = measure(row, results)
    verdicts = judge(measured, row.num_prompts)
    yield from lines(row, found, verdicts)
    yield f"  verdict     {record(row, found, verdicts).write(results)}"


def record(row: Row, found: Found, verdicts: Sequence[FigureVerdict]) -> ReproductionRecord:
    """Return what is written of a verdict."""
    return ReproductionRecord(
        row=row.id,
        paper=row.paper,
        arxiv_id=row.arxiv_id,
        table=row.table,
        source=row.source,
        command=row.command,
        run=found.run.name,
        verdict=overall(verdicts),
        differences=list(found.differences),
        confounders=row.may_differ,
        figures=[_figure(one) for one in verdicts],
        version=alignbench.__version__,
    )


def _figure(one: FigureVerdict) -> FigureRecord:
    own = None
    if one.own is not None:
        low, high = (end if math.isfinite(end) else None for end in (one.own.low, one.own.high))
        own = OwnFigure(one.own.value, low, high)
    return FigureRecord(one.name, one.expected, own, one.gap, one.allowed, one.verdict, one.told)


def lines(row: Row, found: Found, verdicts: Sequence[FigureVerdict]) -> Iterator[str]:
    """Yield the verdict on a row, its figures, and what may have made a difference."""
    verdict = overall(verdicts)
    yield f"{row.id}: {_sentence(verdict, verdicts)}"
    yield f"  run         {found.run.path}"
    yield f"  source      {row.cited}; {row.source}"
    indent = "  "
    yield from (indent + line for line in aligned([HEADS, *map(_cells, verdicts)], WIDTH - len(indent)))
    reasons = dict.fromkeys(one.told for one in verdicts if one.verdict in (NOT_COMPARABLE, NOT_MEASURED))
    for reason in reasons:
        names = [one.name for one in verdicts if one.told == reason]
        yield f"  {'all figures' if len(names) == len(verdicts) else ', '.join(names)}: {reason}"
    if verdict != REPRODUCED:
        yield from (f"  may differ  {confounder}" for confounder in row.may_differ)


def _sentence(verdict: str, verdicts: Sequence[FigureVerdict]) -> str:
    """Say what a row comes to."""
    count = {name: sum(one.verdict == name for one in verdicts) for name in (REPRODUCED, DIFFERS)}
    compared = sum(count.values())
    left = (
        f"; {len(verdicts) - compared} of its {len(verdicts)} figures are not compared"
        if compared < len(verdicts)
        else ""
    )
    if verdict == REPRODUCED:
        return f"reproduced, all {compared} compared figures are within the tolerance{left}"
    if verdict == DIFFERS:
        return f"differs, {count[DIFFERS]} of {compared} compared figures are outside the tolerance{left}"
    if verdict == NOT_COMPARABLE:
        return "not comparable, for the reasons below"
    return "not measured, for the reasons below"


def _cells(one: FigureVerdict) -> tuple[str, ...]:
    if one.own is None or one.gap is None:
        return (one.name, f"{one.expected:g}", "", "", "", "", one.verdict)
    allowed = "" if one.allowed is None else f"{one.allowed:.3g}"
    interval = f"{one.own.low:.4g} to {one.own.high:.4g}"
    return (one.name, f"{one.expected:g}", f"{one.own.value:.5g}", interval, f"{one.gap:+.3g}", allowed, one.verdict)
