"""Draw what each value of a setting brought."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alignbench.report.columns import TableRow
from alignbench.report.labels import setting_name
from alignbench.report.pictures import MAX_TITLE, evaluator_title, new_figure, save_figure
from alignbench.text import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOGARITHMIC = 5  # ratio of the largest value to the smallest from which an axis is logarithmic
MAX_LEGEND = 40  # characters
NUMBER = re.compile(r"-?\d+(\.\d+)?(e-?\d+)?")


def sensitivity_picture(rows: Sequence[TableRow], path: Path, title: str = "") -> None:
    """Write a line of panels for each setting of each method, a panel an evaluator: win rates over base by its value.

    A panel has a line for each combination of the other settings. Evaluators that the method trained on are dashed.

    Args:
        rows: of `sensitivity.csv`, of one model and prompt set.
    """
    evaluators = sorted({(row["evaluator"], row["version"]) for row in rows})
    settings = list(dict.fromkeys((row["recipe_of"], row["setting"]) for row in rows))
    figure = new_figure(1.0 + 2.4 * len(evaluators), 1.0 + 2.2 * len(settings))
    grid = figure.subplots(len(settings), len(evaluators), squeeze=False, sharey=True)
    for panels, (method, setting) in zip(grid, settings, strict=True):
        of_setting = [row for row in rows if (row["recipe_of"], row["setting"]) == (method, setting)]
        places = axis_places([row["setting_value"] for row in of_setting])
        for panel, evaluator in zip(panels, evaluators, strict=True):
            _panel(panel, [row for row in of_setting if (row["evaluator"], row["version"]) == evaluator], places)
            panel.set_title(evaluator_title(evaluator, evaluators), fontsize=9)
            panel.set_xlabel(setting_name(setting), fontsize=8)
        panels[0].set_ylabel(shortened(method, MAX_TITLE), fontsize=8)
    figure.suptitle(shortened(title, MAX_TITLE), fontsize=10)
    figure.supylabel("% won over base, 95 % interval", fontsize=9)
    save_figure(figure, path)


def axis_places(values: Sequence[str]) -> dict[str, float]:
    """Return where each value of a setting stands on an axis: numbers as they are, all else one after another."""
    if are_numbers(values):
        return {value: float(value) for value in values}
    return {value: float(number) for number, value in enumerate(dict.fromkeys(values))}


def are_numbers(values: Iterable[str]) -> bool:
    """Whether all values of a setting are finite numbers."""
    return all(NUMBER.fullmatch(value) for value in values)


def _panel(panel: "Axes", rows: Sequence[TableRow], places: dict[str, float]) -> None:
    for others in dict.fromkeys(row["others"] for row in rows):
        line = [row for row in rows if row["others"] == others]
        x = [places[row["setting_value"]] for row in line]
        value, low, high = (
            [100 * row[name] for row in line] for name in ("win_rate_vs_base", "win_ci_low", "win_ci_high")
        )
        style = "--" if any(row["trained_on"] for row in line) else "-"
        (drawn,) = panel.plot(
            x, value, style, marker="o", markersize=3, linewidth=1.2, label=shortened(others, MAX_LEGEND)
        )
        panel.vlines(x, low, high, color=drawn.get_color(), linewidth=0.8)
    panel.axhline(50, color="gray", linewidth=0.5)
    panel.set_ylim(0, 100)
    ends = min(places.values()), max(places.values())
    if not are_numbers(places):
        panel.set_xticks(list(places.values()), list(places), rotation=30, fontsize=7)
    elif ends[0] > 0 and ends[1] > LOGARITHMIC * ends[0]:
        panel.set_xscale("log")
    if any(row["others"] for row in rows):
        panel.legend(fontsize=6)
    panel.tick_params(labelsize=7)
