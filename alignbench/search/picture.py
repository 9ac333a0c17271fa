"""Draw a search: its objective over the trials, or the Pareto front of two objectives."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from optuna.trial import FrozenTrial, TrialState

from alignbench.report.pictures import new_figure, save_figure
from alignbench.search.objectives import Objective
from alignbench.search.study import figures_of
from alignbench.statistics.resampling import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STOPPED = {TrialState.PRUNED: ("x", "tab:gray", "stopped early"), TrialState.FAIL: ("s", "tab:red", "failed")}


def draw_search(
    trials: Sequence[FrozenTrial], best: Sequence[int], objectives: Sequence[Objective], default: int | None, path: Path
) -> None:
    """Write the picture of a search.

    Args:
        best: numbers of the trials that are best, one or a Pareto front.
        default: number of the trial with the values of the configuration; None if no trial has them.
        path: PNG to write.
    """
    done = [one for one in trials if one.state == TrialState.COMPLETE]
    if not done:
        return
    if len(objectives) == 2:
        figure = new_figure(5.2, 4.2)
        _front(figure.subplots(), done, best, objectives, default)
    else:
        figure = new_figure(6.4, 2.4 * len(objectives) + 0.6)
        panels = figure.subplots(len(objectives), 1, squeeze=False, sharex=True)[:, 0]
        for place, (panel, objective) in enumerate(zip(panels, objectives, strict=True)):
            _course(panel, trials, place, best, objective, default)
        figure.supxlabel("trial; bars: 95 % intervals over prompts", fontsize=9)
    save_figure(figure, path)


def _course(
    panel: "Axes",
    trials: Sequence[FrozenTrial],
    place: int,
    best: Sequence[int],
    objective: Objective,
    default: int | None,
) -> None:
    """Draw one objective over the trials, and the best so far."""
    values: list[tuple[int, Estimate]] = []
    for trial in trials:
        if trial.state == TrialState.COMPLETE:
            values.append((trial.number, _scaled(figures_of(trial)[place], objective)))
    for number, one in values:
        colour = "tab:orange" if number in best else "tab:green" if number == default else "tab:blue"
        panel.plot([number + 1, number + 1], [one.low, one.high], color=colour, linewidth=1)
        panel.plot([number + 1], [one.value], color=colour, marker="o", markersize=4)
    best_so_far, course = None, []
    for number, one in values:
        better = max if objective.is_maximised else min
        best_so_far = one.value if best_so_far is None else better(best_so_far, one.value)
        course.append((number + 1, best_so_far))
    panel.step(*zip(*course, strict=True), where="post", color="black", linewidth=0.8, label="best so far")
    level = min(one.low for _, one in values)
    for state, (marker, colour, told) in STOPPED.items():
        ended = [trial.number + 1 for trial in trials if trial.state == state]
        if ended:
            panel.plot(ended, [level] * len(ended), marker, color=colour, markersize=4, label=told)
    _legend(panel, default)
    panel.set_ylabel(_axis(objective), fontsize=9)
    panel.locator_params(axis="x", integer=True)
    panel.tick_params(labelsize=8)


def _front(
    panel: "Axes",
    done: Sequence[FrozenTrial],
    best: Sequence[int],
    objectives: Sequence[Objective],
    default: int | None,
) -> None:
    """Draw two objectives against each other; a line joins the trials that no other one beats in both."""
    points = {
        one.number: [_scaled(figure, of) for figure, of in zip(figures_of(one), objectives, strict=True)]
        for one in done
    }
    for number, (x, y) in points.items():
        colour = "tab:orange" if number in best else "tab:green" if number == default else "tab:blue"
        panel.plot([x.low, x.high], [y.value, y.value], color=colour, linewidth=0.5, alpha=0.5)
        panel.plot([x.value, x.value], [y.low, y.high], color=colour, linewidth=0.5, alpha=0.5)
        panel.plot([x.value], [y.value], color=colour, marker="o", markersize=4)
    front = sorted((points[number][0].value, points[number][1].value) for number in best)
    panel.plot(*zip(*front, strict=True), color="tab:orange", linewidth=1, label="Pareto front")
    _legend(panel, default if default in points else None)
    panel.set_xlabel(f"{_axis(objectives[0])}; bars: 95 % intervals", fontsize=9)
    panel.set_ylabel(_axis(objectives[1]), fontsize=9)
    panel.tick_params(labelsize=8)


def _legend(panel: "Axes", default: int | None) -> None:
    if default is not None:
        panel.plot([], [], "o", color="tab:green", markersize=4, label="default settings")
    panel.legend(fontsize=8)


def _scaled(one: Estimate, objective: Objective) -> Estimate:
    return Estimate(*(objective.scale * value for value in (one.value, one.low, one.high)))


def _axis(objective: Objective) -> str:
    arrow = "↑" if objective.is_maximised else "↓"
    unit = "win rate over base in %" if objective.figure == "win_rate" else objective.figure
    return f"{unit} {arrow}\n{objective.evaluator}"
