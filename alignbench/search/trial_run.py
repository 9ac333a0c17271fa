"""Run one trial as an ordinary run of the program, and read what it came to."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig
from optuna.trial import FrozenTrial

from alignbench.configuration.build import base_of, build, frames_of, recipe_hash, resolve, row_name, run_name
from alignbench.configuration.compose import composed
from alignbench.configuration.distilled_weights import follow_distilled_weights
from alignbench.configuration.typed.plain_values import settle_arguments
from alignbench.errors import RunInUseError, UserError
from alignbench.generation.generate import Sampling
from alignbench.search.loop import Pruned
from alignbench.search.objectives import Objective, is_scored, measure
from alignbench.search.study import Study
from alignbench.stages.job import run
from alignbench.statistics.resampling import Estimate
from alignbench.store.run_folder import RunFolder
from alignbench.training.validation import EvaluationResult

STAGES = "stages=[train,generate,score]"  # one report comes at the end of the search
WAIT_SECONDS = 5.0  # between two looks at a run that another process makes


@dataclass(frozen=True)
class TrialRun:
    """The run of one trial.

    Attributes:
        cfg: its configuration.
        folder: where it is, also before it is made.
    """

    cfg: DictConfig
    folder: RunFolder

    @classmethod
    def of(cls, words: Sequence[str]) -> "TrialRun":
        """Return the run of the words of a command."""
        cfg = settle_arguments(composed([*words, STAGES]))
        return cls(cfg, RunFolder(Path(cfg.results) / run_name(cfg)))

    def identity(self) -> dict[str, str]:
        """Return what tells the run from others: its name, model, method, and the hash of its settings."""
        model, method = self.cfg.model.name, row_name(self.cfg)
        return {"run": self.folder.name, "model": model, "method": method, "recipe": recipe_hash(self.cfg)}

    @property
    def sampling_hash(self) -> str:
        """Hash of the settings that its images are sampled with."""
        cfg = self.cfg.copy()
        follow_distilled_weights(cfg)
        made = {"control": build(cfg.sampling.control), "frames": frames_of(cfg.model)}
        return Sampling(**resolve(cfg)["sampling"] | made).hash

    def figures(self, objectives: Sequence[Objective]) -> list[Estimate] | None:
        """Return the figures of a run that is done; None if it is not."""
        base = RunFolder(Path(self.cfg.results) / run_name(base_of(self.cfg)))
        prompt_set, sampling_hash = build(self.cfg.prompts).name, self.sampling_hash
        if not (self.folder.completed("train") and is_scored(self.folder, prompt_set, sampling_hash, objectives)):
            return None
        return measure(self.folder, base, prompt_set, sampling_hash, objectives)


def run_trial(trial: FrozenTrial, words: Sequence[str], study: Study) -> list[Estimate]:
    """Return the figures of a trial; its run is made, continued, or only read, as far as it has come.

    Raises:
        Pruned: the pruner stops it.
        RunError: its settings cannot be run here.
        UserError: an evaluator of the objectives left the prompts out.
    """
    one = TrialRun.of(words)
    study.begin(trial, one.identity())
    watch = Watch(trial, study, one.cfg) if study.settings.pruner is not None else None
    told, is_made = "", False
    while (found := one.figures(study.objectives)) is None:
        if is_made:
            names = ", ".join(objective.evaluator for objective in study.objectives)
            raise UserError(f"{one.folder.path} has no scores by {names}; choose evaluators that can judge its prompts")
        try:
            run(one.cfg, watch)
            is_made = True
        except RunInUseError as error:  # a trial with the same values, or a command of its own, makes it
            if str(error) != told:
                told = str(error)
                print(f"  waiting: {told}", flush=True)
            time.sleep(WAIT_SECONDS)
    return found


class Watch:
    """Tells the pruner what each validation of a run finds.

    Its value is the win rate over the start, in the direction of the objective, by the evaluator of the objective.
    """

    def __init__(self, trial: FrozenTrial, study: Study, cfg: DictConfig) -> None:
        self.trial, self.study = trial, study
        self.unit, self.every = cfg.validation.every_unit, cfg.validation.every

    def __call__(self, step: int, network_passes: int, found: Sequence[EvaluationResult]) -> None:
        (objective,) = self.study.objectives
        look = (step if self.unit == "updates" else network_passes) // self.every
        value = next(one.win_rate for one in found if one.evaluator == objective.evaluator)
        value = value if objective.is_maximised else 1 - value
        if look > 0 and self.study.report(self.trial, look, value):
            raise Pruned(f"{objective.evaluator}: wins {100 * value:.0f} % over its start at update {step}")
