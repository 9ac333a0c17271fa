"""Print how the cells of a sweep stand: a table with a line a cell, and a line for each failure."""

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from alignbench.sweeps.record import FOLDER, Sweep
from alignbench.sweeps.standing import Row, standing_of, summary
from alignbench.text import duration, printable

STYLES = {"done": "green", "failed": "bold red", "running": "bold", "pre-empted": "yellow", "waiting": "dim"}


def sweep_table(results: Path, sweep: Sweep) -> RenderableType:
    """Return the table of a sweep."""
    rows = standing_of(results, sweep)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("cell", overflow="fold")
    for name in ("state", "step", "left", "device-h", "job", "log"):
        table.add_column(name, no_wrap=True, justify="right" if name in ("left", "device-h") else "left")
    for row in rows:
        table.add_row(
            Text(printable(row.cell.name)),
            Text(row.standing, style=STYLES[row.standing]),
            Text(row.step),
            Text("" if row.left is None else duration(row.left)),
            Text(f"{row.device_hours:.3f}" if row.state.attempts else ""),
            Text(printable(row.state.job or "")),
            Text(row.cell.slug),
        )
    head = Text.assemble((f"sweep {sweep.name}", "bold"), printable(f"  {_launcher(sweep)}, begun {sweep.started} UTC"))
    cost = sum(row.device_hours for row in rows)
    logs = results / FOLDER / sweep.name
    foot = Text(f"{summary(rows)}; {cost:.3f} device-hours so far\n{'logs':>12}  {logs}/LOG.log")
    lines = [head, foot, *map(Text, failure_lines(results, sweep))]
    for line in lines:  # a path is never cut
        line.no_wrap, line.overflow = True, "ignore"
    return Group(head, table, *lines[1:])


def _launcher(sweep: Sweep) -> str:
    return "one after the other" if sweep.launcher == "basic" else f"hydra/launcher={sweep.launcher}"


def failure_lines(results: Path, sweep: Sweep) -> list[str]:
    """Return a line for each cell that failed or was stopped: its name, why, and where its log is."""
    return [_failure(row) for row in standing_of(results, sweep) if row.standing in ("failed", "pre-empted")]


def _failure(row: Row) -> str:
    log = "" if row.log is None else f"; log: {row.log}"
    return printable(f"{row.cell.name}: {row.standing}: {row.state.reason or 'no reason is known'}{log}")


def print_table(results: Path, sweep: Sweep, console: Console) -> None:
    """Print the table of a sweep."""
    console.print(sweep_table(results, sweep), crop=False)
