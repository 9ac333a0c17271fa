"""Lay out the best setting of each method for people."""

from collections.abc import Sequence

from alignbench.report.columns import TableRow
from alignbench.report.display import Grid, TableSection
from alignbench.report.figures import marks, percent, significance, win_text
from alignbench.report.sensitivity.best import ANY, UNITS

SHOWN_UNIT = "network_passes"  # in files, which have no switch: it is the same on every machine
HEADS = ["method", "settings", "best setting", "win rate over base, %", "on other prompts, %", "seeds", "spent"]
NOTE = (
    "best setting: the highest win rate over base by this evaluator on these prompts; with many settings, chance alone "
    "makes it too high; on other prompts: of settings that were chosen on one half of the prompts, "
    "measured on the other half, averaged over both ways; seeds: number of training seeds, and the standard deviation "
    "of their win rates in points"
)


def best_setting_grids(
    section: TableSection, rows: Sequence[TableRow], unit: str = SHOWN_UNIT
) -> list[tuple[tuple[str, str], Grid]]:
    """Return the best setting of each method within an equal budget, by each evaluator.

    Args:
        rows: of `best_settings.csv`.
        unit: of the budget, one of `UNITS` or `ANY`.
    """
    here = [
        row
        for row in rows
        if (row["model"], row["prompt_set"], row["budget_unit"]) == (section.model, section.prompt_set, unit)
    ]
    found = []
    for evaluator in section.evaluators:
        own = [row for row in here if (row["evaluator"], row["version"]) == evaluator]
        if own:
            title = f"Best setting by {section.head(evaluator)}, {budget_text(own[0])}, {section.where}"
            found.append((evaluator, Grid(title, HEADS, [_cells(row, section, evaluator) for row in own])))
    return found


def budget_text(row: TableRow) -> str:
    """Name a budget, as in `within 24,000 network passes`."""
    if row["budget_unit"] == ANY:
        return "at any budget"
    return f"within {_amount(row['budget_limit'])} {UNITS[row['budget_unit']]}"


def _amount(amount: float) -> str:
    return f"{amount:,.0f}" if amount >= 100 else f"{amount:.3g}"


def _cells(row: TableRow, section: TableSection, evaluator: tuple[str, str]) -> list[str]:
    """Return the cells of one method; most are empty where no setting was within the budget."""
    if row["method"] is None:
        return [row["recipe_of"], str(row["num_settings"]), "none within this budget", "", "", "", ""]
    measured = section.rows[row["method"], evaluator]
    name = row["method"].removeprefix(row["recipe_of"]).strip() or "the only one"
    win = " ".join(filter(None, [win_text(measured), significance(measured), ",".join(marks(measured))]))
    interval = (row["other_prompts_ci_low"], row["other_prompts_ci_high"])
    spread = row["seed_sd_win_rate"]
    seeds = str(row["num_seeds"]) + ("" if spread is None else f" (sd {100 * spread:.1f})")
    spent = "" if row["budget"] is None else _amount(row["budget"])
    return [
        row["recipe_of"], str(row["num_settings"]), name, win, percent(row["other_prompts_win_rate"], interval),
        seeds, spent,
    ]  # fmt: skip
