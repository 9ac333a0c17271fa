"""What a search came to: its best trials, its picture, and the command that measures the best setting anew."""

import shlex
from collections.abc import Sequence

from omegaconf import DictConfig
from optuna.trial import FrozenTrial, TrialState
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from alignbench.report.figures import number
from alignbench.search.picture import draw_search
from alignbench.search.study import Study, figures_of
from alignbench.search.verdict import verdict
from alignbench.store.search_record import TRIALS

PICTURE = "search.png"
SHOWN = 5  # trials of one objective
SEEDS = 3  # that the best setting is trained with anew


def print_outcome(study: Study, report: Sequence[str], cfg: DictConfig, reported: str, console: Console) -> None:
    """Print the best trials of a search, draw it, and print the command that comes next.

    Args:
        report: words that all trials share, but those of the prompts.
        cfg: the configuration that all trials share.
        reported: name of these prompts.
    """
    trials, best, default = study.trials(), study.best(), study.default_trial()
    console.print(Text(_counts(trials)))
    for trial, holder in study.held_elsewhere():
        told = f"trial {trial.number + 1} is run by process {holder.pid} on {holder.host}, since {holder.since} UTC"
        hint = "" if holder.is_near(study.holder) else "; if that process is gone, add search.take_over=true"
        console.print(f"  {told}{hint}", soft_wrap=True)
    if not best:
        console.print("no trial came to a value; trials.csv says why")
        return
    shown = _ranked(study, trials, best)
    console.print(_table(study, shown, best, default))
    if len(study.objectives) == 1:
        console.print(Text(_caution(study, trials, best[0], default), style="dim"))
    if importance := study.importance():
        told = ", ".join(f"{key} {100 * share:.0f} %" for key, share in importance.items())
        console.print(f"  what mattered, by PED-ANOVA: {told}", soft_wrap=True)
    draw_search(trials, best, study.objectives, default, study.folder / PICTURE)
    for name, file in (("trials", TRIALS), ("picture", PICTURE)):
        console.print(f"{name:>10}  {study.folder / file}", soft_wrap=True)
    seeds = [cfg.seed + 1 + place for place in range(SEEDS)]
    chosen = [study.space.words(trials[one].params) for one in best[:SHOWN]]
    is_only = len(study.objectives) == 1 and default != best[0] and study.default is not None
    if is_only and (told := verdict(report, chosen[0], seeds, reported, study.objectives[0])) is not None:
        console.print(told, soft_wrap=True)
        return
    settings = "settings" if len(best) > 1 else "setting"
    beside = ", and the default settings beside it" if is_only else ""
    console.print(f"train the best {settings} with other seeds{beside}, and report on prompts={reported}:")
    for words in [*chosen, *([[]] if is_only else [])]:
        command = shlex.join([*report, *words, f"seed={','.join(map(str, seeds))}"])
        console.print(f"  python -m alignbench -m {command}", soft_wrap=True)
    if is_only:
        console.print("the same search then says whether the best setting beats the default one")


def _counts(trials: Sequence[FrozenTrial]) -> str:
    """Say what became of the trials."""
    names = {
        TrialState.COMPLETE: "finished",
        TrialState.PRUNED: "stopped early",
        TrialState.FAIL: "failed",
        TrialState.RUNNING: "running",
    }
    counts = {told: sum(one.state == state for one in trials) for state, told in names.items()}
    return f"{len(trials)} trials: {', '.join(f'{count} {told}' for told, count in counts.items() if count)}"


def _ranked(study: Study, trials: Sequence[FrozenTrial], best: Sequence[int]) -> list[FrozenTrial]:
    """Return the trials that the table shows: the best ones, or the Pareto front, and the default settings."""
    done = [one for one in trials if one.state == TrialState.COMPLETE]
    first = study.objectives[0]
    done.sort(key=lambda one: -one.values[0] if first.is_maximised else one.values[0])
    shown = [one for one in done if one.number in best] if len(study.objectives) > 1 else done[:SHOWN]
    default = study.default_trial()
    return shown + [one for one in done if one.number == default and one not in shown]


def _table(study: Study, shown: Sequence[FrozenTrial], best: Sequence[int], default: int | None) -> Table:
    title = "Pareto front" if len(study.objectives) > 1 else "best trials"
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", padding=(0, 1, 0, 0))
    table.add_column("trial", justify="right")
    for objective in study.objectives:
        unit = ", %" if objective.figure == "win_rate" else ""
        table.add_column(f"{objective.name}{unit} [95 %]", justify="right", overflow="fold")
    table.add_column("settings", overflow="fold")
    for trial in shown:
        cells = [
            number(one.value, (one.low, one.high), of.scale)
            for one, of in zip(figures_of(trial), study.objectives, strict=True)
        ]
        settings = " ".join(study.space.words(trial.params))
        mark = " (default)" if trial.number == default else ""
        table.add_row(f"{trial.number + 1}", *cells, settings + mark, style="bold" if trial.number in best else "")
    return table


def _caution(study: Study, trials: Sequence[FrozenTrial], best: int, default: int | None) -> str:
    """Say what the value of the best of several trials is worth."""
    done = sum(one.state == TrialState.COMPLETE for one in trials)
    told = f"the best of {done} trials looks better than it is, because it was chosen by these prompts"
    if best == default:
        return f"{told}; no trial was better than the default settings"
    return told
