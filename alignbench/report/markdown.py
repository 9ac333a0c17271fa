"""Write the leaderboard as Markdown and as LaTeX, for people and for papers."""

from pathlib import Path

from alignbench.files import write_text
from alignbench.report.display import Grid, TableSection, grid_notes, grids, sections
from alignbench.report.further_tables.reproductions import NOTE as REPRODUCED
from alignbench.report.further_tables.reproductions import reproduction_grid
from alignbench.report.hacking import below_base, findings, warnings
from alignbench.report.sensitivity.display import NOTE, best_setting_grids
from alignbench.report.tables import Tables
from alignbench.report.verdict import LEGEND, summary, verdicts

_TEX = {"\\": r"\textbackslash{}", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "<": "$<$", ">": "$>$", "^": r"\^{}",
        "~": r"\textasciitilde{}", **{sign: f"\\{sign}" for sign in "&%$#_{}"}}  # fmt: skip


def write(root: Path, tables: Tables) -> None:
    """Write `leaderboard.md` and `leaderboard.tex` under the results root."""
    write_text(Path(root) / "leaderboard.md", markdown(tables))
    write_text(Path(root) / "leaderboard.tex", latex(tables))


def markdown(tables: Tables) -> str:
    """Return the leaderboard as GitHub Markdown."""
    lines = ["# Leaderboard", "", *(f"> {escaped(text)}\n" for text in tables.left_out_told)]
    for section in sections(tables):
        lines += [f"## {_without_html(section.where)}", ""]
        told = verdicts(tables, section)
        if text := summary(told, below_base(tables, section.model, section.prompt_set)):
            lines += [escaped(text), ""]
        for finding in findings(tables, section.model, section.prompt_set):
            lines += [f"> **{escaped(str(finding))}**", ""]
        key = (section.model, section.prompt_set)
        for warning in warnings(tables, *key):
            lines += [f"> {escaped(str(warning))}", ""]
        if told:
            lines += [f"**Each method over base.** {LEGEND}", "", *(f"- {escaped(str(one))}" for one in told), ""]
        for grid in _grids(tables, section):
            lines += [f"**{_without_html(grid.title)}**", "", *grid_lines(grid), ""]
        lines += [*(f"- {escaped(note)}" for note in _notes(tables, section)), ""]
    if (grid := reproduction_grid(tables.reproductions)) is not None:
        lines += [f"## {grid.title}", "", *grid_lines(grid), "", f"- {escaped(REPRODUCED)}", ""]
    return "\n".join(lines)


def _grids(tables: Tables, section: TableSection) -> list[Grid]:
    return [*grids(section), *(grid for _, grid in best_setting_grids(section, tables.best_settings))]


def _notes(tables: Tables, section: TableSection) -> list[str]:
    return [*grid_notes(section), *([NOTE] if best_setting_grids(section, tables.best_settings) else [])]


def grid_lines(grid: Grid) -> list[str]:
    """Return the lines of a table."""
    rule = "|" + "|".join(["---", *["---:"] * (len(grid.heads) - 1)]) + "|"
    head, *body = ("| " + " | ".join(map(escaped, cells)) + " |" for cells in [grid.heads, *grid.rows])
    return [head, rule, *body]


def escaped(text: str) -> str:
    """Return a text whose signs mean nothing in Markdown."""
    return "".join("\\" + sign if sign in "*_|" else sign for sign in _without_html(text))


def _without_html(text: str) -> str:
    return text.replace("<", "\\<").replace("\n", " ")


def latex(tables: Tables) -> str:
    """Return the leaderboard as LaTeX tables for the package booktabs."""
    lines = ["% needs \\usepackage{booktabs}", ""]
    for section in sections(tables):
        key = (section.model, section.prompt_set)
        lines += [
            f"% {told}" for told in (*findings(tables, *key), *warnings(tables, *key), *verdicts(tables, section))
        ]
        for grid in _grids(tables, section):
            lines += [
                "\\begin{table}",
                "\\centering",
                f"\\caption{{{_tex(grid.title)}}}",
                f"\\begin{{tabular}}{{l{'r' * (len(grid.heads) - 1)}}}",
                "\\toprule",
                _tex_row(grid.heads),
                "\\midrule",
                *map(_tex_row, grid.rows),
                "\\bottomrule",
                "\\end{tabular}",
                "\\end{table}",
                "",
            ]
        lines += [*(f"% {note}" for note in _notes(tables, section)), ""]
    return "\n".join(lines)


def _tex_row(cells: list[str]) -> str:
    return " & ".join(f"{{{_tex(cell)}}}" for cell in cells) + r" \\"


def _tex(text: str) -> str:
    return "".join(_TEX.get(sign, sign) for sign in text)
