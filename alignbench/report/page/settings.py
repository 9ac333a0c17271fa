"""Tell the page what each value of a setting brought, and which setting of each method is best within equal budgets."""

from collections.abc import Iterable

from alignbench.report.columns import TableRow
from alignbench.report.display import TableSection
from alignbench.report.labels import setting_name
from alignbench.report.page.store import PageData
from alignbench.report.sensitivity.best import ANY, UNITS
from alignbench.report.sensitivity.display import NOTE, best_setting_grids, budget_text
from alignbench.report.sensitivity.picture import are_numbers, axis_places
from alignbench.report.tables import Tables


def settings_entry(tables: Tables, section: TableSection) -> PageData:
    """Return what a section says of several settings of its methods; None where each method has one."""
    key = (section.model, section.prompt_set)
    number = {evaluator: i for i, evaluator in enumerate(section.evaluators)}
    best = [row for row in tables.best_settings if (row["model"], row["prompt_set"]) == key]
    if not best:
        return {"settings": None}
    swept = [row for row in tables.sensitivity if (row["model"], row["prompt_set"]) == key]
    panels = dict.fromkeys((row["recipe_of"], row["setting"], row["evaluator"], row["version"]) for row in swept)
    return {
        "settings": {
            "note": NOTE,
            "budgets": [_budget(unit, section, best, number) for unit in (*UNITS, ANY)],
            "panels": [
                _panel(swept, method, setting, (evaluator, version), number)
                for method, setting, evaluator, version in panels
            ],
        }
    }


def _budget(unit: str, section: TableSection, rows: Iterable[TableRow], number: dict[tuple[str, str], int]) -> PageData:
    """Return the tables of one unit, and how the page names the budget."""
    own = [row for row in rows if row["budget_unit"] == unit]
    return {
        "unit": unit,
        "name": UNITS.get(unit, "any budget"),
        "text": budget_text(own[0]) if own else "",
        "grids": [
            {"evaluator": number[evaluator], **vars(grid)} for evaluator, grid in best_setting_grids(section, own, unit)
        ],
    }


def _panel(
    rows: Iterable[TableRow],
    method: str,
    setting: str,
    evaluator: tuple[str, str],
    number: dict[tuple[str, str], int],
) -> PageData:
    """Return the win rates by the value of one setting: a line for each combination of the other settings."""
    own = [
        row
        for row in rows
        if (row["recipe_of"], row["setting"], row["evaluator"], row["version"]) == (method, setting, *evaluator)
    ]
    places = axis_places([row["setting_value"] for row in own])
    return {
        "recipeOf": method,
        "setting": setting_name(setting),
        "key": setting,
        "evaluator": number[evaluator],
        "isNumber": are_numbers(places),
        "ticks": [[place, value] for value, place in places.items()],
        "lines": [
            {
                "others": others,
                "points": [
                    {
                        "x": places[row["setting_value"]],
                        "value": 100 * row["win_rate_vs_base"],
                        "low": 100 * row["win_ci_low"],
                        "high": 100 * row["win_ci_high"],
                        "method": row["method"],
                        "trainedOn": row["trained_on"],
                    }
                    for row in own
                    if row["others"] == others
                ],
            }
            for others in dict.fromkeys(row["others"] for row in own)
        ],
    }
