"""Print what a run achieved, at the end of it, within 100 columns, or within 80 in a narrow window."""

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from alignbench.errors import UserError
from alignbench.report.cards.beside import ROW, agreement_text
from alignbench.report.display import TableSection, sections
from alignbench.report.figures import is_data, marks, notes, over_text, score_text, significance, win_text
from alignbench.report.hacking import Finding, Remark, below_base, findings, warnings
from alignbench.report.tables import Tables
from alignbench.report.verdict import LEGEND, summary, verdicts
from alignbench.store.manifest import BASE, Manifest
from alignbench.store.run_folder import RunFolder
from alignbench.text import duration

WIDE, NARROW = 100, 80  # columns of the two forms of a table
ORACLE = "shapes_oracle"  # evaluators of this name know the truth and are never trained on


def print_left_out(tables: Tables, folder: RunFolder, console: Console) -> None:
    """Say which folders are left out of a report, and why.

    Raises:
        UserError: the run that the report is asked for is one of them.
    """
    others = [told for name, told in zip(tables.left_out, tables.left_out_told, strict=True) if name != folder.name]
    for told in others:
        console.print(Text(told, style="yellow"), soft_wrap=True)
    if folder.name in tables.left_out:
        raise UserError(f"{tables.left_out[folder.name]}; the report of all others is written")


def print_run(folder: RunFolder, tables: Tables, console: Console | None = None) -> None:
    """Print the run's figures on every prompt set it was scored on, what it cost, and where its files are.

    What is left out of the report comes first. Of a run without figures, as where the stage `report` alone was asked
    for, the verdicts on all others are printed.

    Raises:
        UserError: the run itself is left out.
    """
    console = console or Console()
    print_left_out(tables, folder, console)
    manifest, width = folder.manifest, max(NARROW, console.width)
    console.width = width  # rich would cut cells off in a window that is narrower still; the terminal wraps them
    parts = sections(tables)
    is_measured = any(_methods(manifest, section) for section in parts)
    for section in parts:
        methods = _methods(manifest, section)
        for method in methods:
            for shown in _tables(method, section, is_narrow=width < WIDE):
                console.print(shown, width=width, crop=False)  # a narrower window cuts nothing off
        told = [one for one in verdicts(tables, section) if one.method in methods or not is_measured]
        if told and not is_measured:
            console.print(Text(section.where, style="bold"))
            doubtful = below_base(tables, section.model, section.prompt_set)
            console.print(Text(f"{summary(told, doubtful)}\n{LEGEND}"))
        for one in told:
            console.print(Text(str(one), style="bold" if is_measured else ""), width=width)
    for finding in findings(tables, manifest.model):
        if manifest.run in _runs_of(tables, finding):
            console.print(Text(str(finding), style="bold red"), width=width)
    for warning in warnings(tables, manifest.model):
        if is_data(warning.method) or manifest.run in _runs_of(tables, warning):
            console.print(Text(str(warning), style="yellow"), width=width)
    for name, value in _facts(folder, manifest):
        console.print(Text(f"{name:>12}  {value}"), soft_wrap=True)


def _methods(manifest: Manifest, section: TableSection) -> list[str]:
    """Return the methods that a run is a row of: one for each strength that its images were made at."""
    return sorted({method for (method, _), row in section.rows.items() if manifest.run in row["run"].split()})


def _tables(method: str, section: TableSection, is_narrow: bool) -> Iterator[Table | Text]:
    """Yield the table of a method; a narrow one has no borders, and its scores no intervals."""
    rows = {evaluator: row for (other, evaluator), row in section.rows.items() if other == method}
    first = next(iter(rows.values()))
    seeds = f", {first['num_seeds']} seeds" if first["num_seeds"] > 1 else ""
    everywhere = [mark for mark in marks(first) if all(mark in marks(row) for row in rows.values())]
    title = f"{first['method']} on {section.model}: {section.prompt_name}, {first['n']} images{seeds}"
    title = " ".join([title, *filter(None, [",".join(everywhere)])])
    form: dict[str, Any] = {"box": None, "padding": (0, 1, 0, 0)} if is_narrow else {"width": WIDE}
    table = Table(title=title, title_justify="left", **form)
    table.add_column("evaluator", no_wrap=True)
    kind = section.summary(rows)
    for head in (kind if is_narrow else f"{kind} [95 %]", "base", "% won [95 %]"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, min_width=4)
    trainable = sorted(evaluator for evaluator in rows if not evaluator[0].startswith(ORACLE))
    oracle = sorted(evaluator for evaluator in rows if evaluator[0].startswith(ORACLE))
    for evaluator in [*trainable, *oracle]:
        letters = [mark for mark in marks(rows[evaluator]) if mark not in everywhere]
        row, info, base = rows[evaluator], section.infos[evaluator], section.rows.get((BASE, evaluator))
        table.add_row(
            " ".join([section.score_head(evaluator), *letters]),
            score_text(row, info).split(" ")[0] if is_narrow else score_text(row, info),
            score_text(base, info).split(" ")[0] if base else "",
            win_text(row),
            significance(row),
            end_section=evaluator in trainable[-1:],
        )
    yield table
    over_start = {evaluator: section.over_start.get((first["method"], evaluator)) for evaluator in rows}
    if start := next((row["method_b"] for row in over_start.values() if row), None):
        table = Table(title=f"{first['method']} over its start, {start}", title_justify="left", **form)
        table.add_column("evaluator", no_wrap=True)
        table.add_column("% won over the start [95 %]", justify="right", no_wrap=True)
        for evaluator in [*trainable, *oracle]:
            if (row := over_start[evaluator]) is not None:
                table.add_row(section.head(evaluator), over_text(row))
        yield table
    agree = [
        f"{section.head(evaluator)} {agreement_text(section.cards[evaluator])}"
        for evaluator in [*trainable, *oracle]
        if evaluator in section.cards
    ]
    told = [*notes(rows.values()).values(), *([f"{ROW}: {'; '.join(agree)}"] if agree else [])]
    yield Text("\n".join(told), style="dim")


def _runs_of(tables: Tables, finding: Finding | Remark) -> list[str]:
    key = (finding.model, finding.prompt_set, finding.method)
    rows = (row for row in tables.leaderboard if (row["model"], row["prompt_set"], row["method"]) == key)
    return [run for row in rows for run in row["run"].split()]


def _facts(folder: RunFolder, manifest: Manifest) -> Iterator[tuple[str, str]]:
    budget = manifest.budget
    if budget.optimizer_steps:
        pace = f"{budget.optimizer_steps:,} updates, {budget.samples_seen:,} samples"
        kept = f", step {manifest.selected_step} kept" if manifest.selected_by else ""
        yield "training", f"{duration(budget.train_seconds)}, {pace}{kept}"
        yield (
            "memory",
            f"{budget.peak_memory_gib:.2f} GiB at most, {budget.trainable_parameters:,} trainable parameters",
        )
        yield "policy", str(folder.policy)
    yield "run folder", str(folder.path)
    yield "tables", str(folder.path.parent / "leaderboard.md")
    yield "report", str(folder.path.parent / "index.html")
