"""Search: check the command, let processes take turns to run trials, and show what they came to."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from alignbench.configuration.build import build, recipe_hash
from alignbench.configuration.compose import check_command_line, composed
from alignbench.errors import DivergedError, RunError, StopRequested, UserError
from alignbench.search.held_out import check_held_out, check_objectives, report_words
from alignbench.search.objectives import Objective, read_objectives
from alignbench.search.outcome import print_outcome
from alignbench.search.settings import SearchSettings
from alignbench.search.space import Space, Value
from alignbench.search.study import Study
from alignbench.search.trial_run import STAGES, Pruned, run_trial
from alignbench.store.search_record import searches_folder
from alignbench.terminal.console import headed, open_console, print_fact
from alignbench.terminal.endings import tell_failure
from alignbench.terminal.machine import of_the_machine
from alignbench.terminal.signals import asked_to_end
from alignbench.terminal.waiting import waiting
from alignbench.text import duration

OWN = ("stages", "shard", "dry_run", "requeue")  # keys that the search itself sets, or that need the main program
MOST_FAILURES = 3  # in a row; then something else than the settings is wrong


def search(words: Sequence[str], space: Space, settings: SearchSettings) -> None:
    """Run the trials of a search that no other process runs, and show the best ones.

    Args:
        words: those that all trials share.

    Raises:
        UserError: the command must be changed, or its trials cannot be run.
    """
    if "RANK" in os.environ:
        raise UserError(
            "a search runs each trial in one process; start it without a launcher, once for each device, and all of "
            "them share its trials"
        )
    with waiting("loading libraries, checking the command"):
        study, cfg, chosen_by, reported = prepare(words, space, settings)
    console = open_console()
    console.print(headed(study.folder.name, f"search of {study.num_trials} trials"))
    console.print(f"  folder      {study.folder}", soft_wrap=True)
    for name, told in (
        ("settings", ", ".join(one.key for one in space.settings)),
        ("objective", ", ".join(f"{one.name} {'↑' if one.is_maximised else '↓'}" for one in study.objectives)),
        ("prompts", f"{chosen_by} to choose by; {reported} for the report"),
    ):
        print_fact(console, name, told)
    run_trials(study, words, console, Path(cfg.results))
    study.write_table()
    print_outcome(study, words, report_words(words, settings), cfg, reported, console)


def prepare(words: Sequence[str], space: Space, settings: SearchSettings) -> tuple[Study, DictConfig, str, str]:
    """Check a search as a whole, and open its study.

    Returns:
        The study; the configuration that all trials share; the names of the prompts of search and report.

    Raises:
        UserError: the command must be changed.
    """
    _check_words(words)
    if settings.sampler == "grid":
        space.cells()
    for corner in space.corners():
        if check_command_line([*words, *corner, STAGES], multirun=False) != 1:
            raise UserError("an experiment that is a sweep cannot be searched; name its settings one by one")
    cfg = composed([*words, STAGES])
    objectives = read_objectives(settings.objective, build(cfg.evaluators))
    chosen_by, reported = check_held_out(cfg, words, settings)
    check_objectives(cfg, objectives)
    if settings.pruner is not None:
        _check_pruner(cfg, objectives, settings)
    what = {
        "recipe": recipe_hash(cfg),
        "training seed": cfg.seed,
        "model": cfg.model.name,
        "prompts": chosen_by.fingerprint,
        "sampling": OmegaConf.to_container(cfg.sampling, resolve=True),
        "settings": space.record(),
        "objective": [f"{one.name}@{one.version}" for one in objectives],
        **{name: getattr(settings, name) for name in ("sampler", "seed", "pruner")},
    }
    name = settings.name or f"{cfg.method.name}-{cfg.model.name}-{_digest(what)}"
    folder = searches_folder(Path(cfg.results)) / name
    study = Study(folder, what, space, objectives, settings, _default(cfg, space))
    return study, cfg, chosen_by.name, reported.name


def run_trials(study: Study, words: Sequence[str], console: Console, results: Path) -> None:
    """Run trials until none is left for this process.

    Args:
        results: the folder that a file about a defect goes to.

    Raises:
        UserError: a command that cannot be run, or three trials failed one after the other.
    """
    began, done, failures = time.monotonic(), 0, 0
    while (trial := study.claim()) is not None:
        values = study.space.words(trial.params)
        told = f"trial {trial.number + 1} of {study.num_trials}: {' '.join(values)}"
        console.print(told + _time_left(began, done, study), soft_wrap=True)
        failures = failures + 1 if run_one(trial, [*words, *values], study, console, results) else 0
        study.write_table()
        done += 1
        if failures == MOST_FAILURES:
            raise UserError(
                f"{MOST_FAILURES} trials failed one after the other, as told above; mend that, and repeat the command "
                "with a higher search.num_trials"
            )


def run_one(trial: FrozenTrial, words: Sequence[str], study: Study, console: Console, results: Path) -> bool:
    """Run one trial and store what it came to; say whether it failed.

    Raises:
        UserError: its command is wrong, which the search as a whole has to say.
    """
    began = time.monotonic()

    def end(state: TrialState, reason: str) -> None:
        study.end(trial, state, reason, time.monotonic() - began)
        ended = "stopped early" if state == TrialState.PRUNED else "failed"
        console.print(f"  {ended}: {reason}", soft_wrap=True)

    try:
        figures = run_trial(trial, words, study)
    except (Pruned, DivergedError) as reason:  # its settings are bad
        end(TrialState.PRUNED, str(reason))
        return False
    except RunError as reason:
        end(TrialState.FAIL, str(reason))
        return True
    except UserError:
        raise
    except Exception as error:  # the other trials need not fail
        if of_the_machine(error) is None and (signum := asked_to_end()) is not None:
            raise StopRequested(signum) from None
        tell_failure(error, results, f"trial {trial.number + 1}")
        end(TrialState.FAIL, f"{type(error).__name__}: {' '.join(str(error).split())}")
        return True
    study.complete(trial, figures, time.monotonic() - began)
    told = (
        f"{one.name} {one.scale * figure.value:.4g} [{one.scale * figure.low:.4g}, {one.scale * figure.high:.4g}]"
        for one, figure in zip(study.objectives, figures, strict=True)
    )
    console.print(f"  {', '.join(told)}", soft_wrap=True)
    return False


def _time_left(began: float, done: int, study: Study) -> str:
    """Say how long a search will take, at the pace of this process."""
    if not done:
        return ""
    so_far = time.monotonic() - began
    left = study.num_trials - sum(one.state.is_finished() for one in study.trials())
    return f"  ({duration(so_far)} so far, about {duration(so_far / done * left)} left)"


def _check_words(words: Sequence[str]) -> None:
    for word in words:
        key = word.partition("=")[0].lstrip("+~")
        if key in OWN:
            raise UserError(f"{word} is not for a search, which sets the stages of its trials itself; leave it out")
        if key.partition(".")[0].partition("/")[0] == "hydra":
            raise UserError(f"{word} is for sweeps, and a search runs its trials itself; leave it out")


def _check_pruner(cfg: DictConfig, objectives: Sequence[Objective], settings: SearchSettings) -> None:
    if cfg.validation.every is None:
        raise UserError(
            f"search.pruner={settings.pruner} stops trials by their validation values; add validation=shapes or "
            "another of conf/validation, or leave it out"
        )
    if len(objectives) > 1:
        raise UserError(
            f"search.pruner={settings.pruner} needs one search.objective, as a trial may be bad by one and good by "
            "another; leave it out, or choose one"
        )


def _default(cfg: DictConfig, space: Space) -> dict[str, Value] | None:
    """Return the values of the configuration; None if the space does not have them."""
    found: dict[str, Value] = {}
    for one in space.settings:
        value = one.default(OmegaConf.select(cfg, one.key.lstrip("+")))
        if value is None:
            return None
        found[one.key] = value
    return found


def _digest(what: dict[str, Any]) -> str:
    import hashlib
    import json

    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:10]
