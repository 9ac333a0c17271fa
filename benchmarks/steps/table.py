"""The measurements as one table, and as the figures of a JSON file."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.steps.interval import Interval
from benchmarks.steps.meter import DENOISER
from benchmarks.steps.turns import Measured, Turns

HEADS = (
    "command", "against", "CPU s a turn", "times as fast", "ceiling", "outside networks", "passes a sample",
    "theirs",
)  # fmt: skip


def figures_of(measured: Measured) -> dict[str, Any]:
    """Return all figures of a row."""

    def side(one: Turns) -> dict[str, Any]:
        return {
            "name": one.name,
            "cpu_seconds": one.seconds[1:],
            "network_cpu_seconds": one.network_seconds[1:],
            "outside_networks": asdict(measured.outside(one)),
            "passes_a_sample": measured.passes(one),
            "cpu_seconds_a_pass": one.row_seconds(),
        }

    row = measured.row
    return {
        "command": f"method={row.method} model={measured.model} {' '.join(row.options)}".strip(),
        "prepared": row.prepared,
        "batch": measured.batch,
        "alignbench": side(measured.program),
        "plain": [
            side(other) | {"ratio": asdict(measured.ratio(other)), "ceiling": asdict(measured.ceiling(other))}
            for other in measured.others
        ],
    }


def lines_of(measured: Measured) -> list[tuple[str, ...]]:
    """Return the cells of a row of the table, one line for each plain step."""
    program = measured.program
    outside = measured.outside(program)
    return [
        (
            measured.row.name,
            other.name,
            f"{Interval.of(program.seconds[1:]).median:.2f}",
            measured.ratio(other).shown(),
            f"{measured.ceiling(other).median:.2f}",
            f"{100 * outside.median:.1f} % ({100 * outside.low:.1f} to {100 * outside.high:.1f})",
            _passes(measured.passes(program)),
            _passes(measured.passes(other)),
        )
        for other in measured.others
    ]


def _passes(passes: dict[str, float]) -> str:
    """Return passes as in `20.3 + 2`: without and with a backward pass, and what other networks do, if anything."""
    denoiser = f"{passes.get('forward', 0):.3g} + {passes.get('backward', 0):.3g}"
    others = [f"{name} {rows:.3g}" for name, rows in passes.items() if name not in DENOISER]
    return ", ".join([denoiser, *others])


def markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table of Markdown."""
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
