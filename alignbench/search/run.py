"""Search: check the command as a whole, run its trials, and show what they came to."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from alignbench.configuration.build import build, recipe_hash
from alignbench.configuration.compose import check_command_line, composed
from alignbench.data.prompts import PromptSet
from alignbench.errors import UserError
from alignbench.search.held_out import check_held_out, check_objectives, report_words
from alignbench.search.loop import run_trials
from alignbench.search.objectives import Objective, read_objectives
from alignbench.search.outcome import print_outcome
from alignbench.search.settings import SearchSettings
from alignbench.search.space import Space, Value
from alignbench.search.study import Study
from alignbench.search.trial_run import STAGES, run_trial
from alignbench.store.search_record import searches_folder
from alignbench.terminal.console import headed, open_console, print_fact
from alignbench.terminal.waiting import waiting

OWN = ("stages", "shard", "dry_run", "requeue")  # keys that the search itself sets, or that need the main program


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
        cfg, objectives, chosen_by, reported = check_search(words, space, settings)
        study = open_study(cfg, space, objectives, chosen_by, settings)
    console = open_console()
    console.print(headed(study.folder.name, f"search of {study.num_trials} trials"))
    console.print(f"  folder      {study.folder}", soft_wrap=True)
    for name, told in (
        ("settings", ", ".join(one.key for one in space.settings)),
        ("objective", ", ".join(f"{one.name} {'↑' if one.is_maximised else '↓'}" for one in study.objectives)),
        ("prompts", f"{chosen_by.name} to choose by; {reported.name} for the report"),
    ):
        print_fact(console, name, told)
    run_trials(study, words, run_trial, console, Path(cfg.results))
    study.write_table()
    print_outcome(study, report_words(words, settings), cfg, reported.name, console)


def check_search(
    words: Sequence[str], space: Space, settings: SearchSettings
) -> tuple[DictConfig, list[Objective], PromptSet, PromptSet]:
    """Check a search as a whole, before anything is made.

    Returns:
        The configuration that all trials share; the objectives; the prompts of the search and those of the report.

    Raises:
        UserError: the command must be changed.
    """
    _check_words(words)
    if settings.sampler == "grid":
        space.cells()
    chosen: dict[tuple[str, ...], None] = {}
    for corner in space.corners():
        if check_command_line([*words, *corner, STAGES], multirun=False) != 1:
            raise UserError("an experiment that is a sweep cannot be searched; name its settings one by one")
        # a setting of a method can only be composed with it
        chosen[tuple(word for one, word in zip(space.settings, corner, strict=True) if "." not in one.key)] = None
    first, *others = chosen  # each choice of a method, data or reward is in one of them
    cfg = composed([*words, *first, STAGES])
    objectives = read_objectives(settings.objective, build(cfg.evaluators))
    chosen_by, reported = check_held_out(cfg, [*words, *first], settings)
    check_objectives(cfg, objectives)
    for groups in others:
        other = composed([*words, *groups, STAGES])
        check_held_out(other, [*words, *groups], settings)
        check_objectives(other, objectives)
    if settings.pruner is not None:
        _check_pruner(cfg, objectives, settings)
    return cfg, objectives, chosen_by, reported


def open_study(
    cfg: DictConfig, space: Space, objectives: list[Objective], chosen_by: PromptSet, settings: SearchSettings
) -> Study:
    """Return the study of a checked search: the one that is there, or a new one.

    Raises:
        UserError: its folder holds another search.
    """
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
    return Study(folder, what, space, objectives, settings, _default(cfg, space))


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
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:10]
