"""Print one table of all methods at the end of a sweep, within 80 columns."""

from collections.abc import Iterator
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from alignbench.report.columns import TableRow, read_table
from alignbench.report.comparison import ALL
from alignbench.report.figures import MARKS, SIGNIFICANT, marks, notes, significance
from alignbench.store.manifest import BASE
from alignbench.text import shortened

WIDTH = 80
SHOWN = 4  # methods side by side; more go below
NAME = 9  # letters of a method's name in a head


def print_sweep(root: Path, console: Console) -> None:
    """Print the win rates over base of every method of a results folder, one table for each model and prompt set."""
    table = read_table(root / "leaderboard.csv")
    rows: list[TableRow] = table.loc[(table["group"] == ALL) & (table["method"] != BASE)].to_dict(orient="records")
    for section in sorted({(row["model"], row["prompt_set"]) for row in rows}):
        for shown in _tables(": ".join(section), [row for row in rows if (row["model"], row["prompt_set"]) == section]):
            console.print(shown)
    if rows:
        console.print(Text("\n".join(notes(rows).values()), style="dim"), width=WIDTH)
    for name, file in (("tables", "leaderboard.md"), ("report", "index.html")):
        console.print(Text(f"{name:>12}  {root / file}"), soft_wrap=True)


def _tables(title: str, rows: list[TableRow]) -> Iterator[Text | Table]:
    cells = {(row["method"], row["evaluator"], row["version"]): row for row in rows}
    evaluators = sorted({key[1:] for key in cells})
    methods = sorted({row["method"] for row in rows})
    everywhere = [mark for mark in MARKS.values() if all(mark in marks(row) for row in rows)]
    yield Text(" ".join([f"wins over base in %, {title}", *filter(None, [",".join(everywhere)])]), style="italic")
    for first in range(0, len(methods), SHOWN):
        shown = methods[first : first + SHOWN]
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column("evaluator", overflow="fold")
        for method in shown:
            table.add_column(Text(shortened(method, NAME)), justify="right", no_wrap=True)
        for evaluator in evaluators:
            found = (cells.get((method, *evaluator)) for method in shown)
            table.add_row(evaluator[0], *(Text() if row is None else _cell(row, everywhere) for row in found))
        yield table


def _cell(row: TableRow, everywhere: list[str]) -> Text:
    """Return a win rate with its letters and stars, bold if it is significant over training seeds as well."""
    letters = "".join(mark for mark in marks(row) if mark not in everywhere)
    rate = " ".join(filter(None, [f"{100 * row['win_rate_vs_base']:.1f}", letters]))
    return Text(rate + significance(row).replace("n.s.", ""), style="bold" if row["p_win"] < SIGNIFICANT else "")
