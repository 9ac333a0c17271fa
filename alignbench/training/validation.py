"""A look at a run while it trains: images of held-out prompts, their scores, and which weights were best so far.

Each look is a small run folder of its own, `validation/step-N`, so images are made, scored and kept as after training.
"""

import csv
import io
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from omegaconf import DictConfig
from tqdm.auto import tqdm

from alignbench.configuration.build import build, frames_of
from alignbench.data.prompts import PromptSet, overlap
from alignbench.data.source import DataSource
from alignbench.errors import UserError
from alignbench.evaluator import Evaluator
from alignbench.files import sha256, write_text
from alignbench.generation.generate import Sampling, generate, image_set
from alignbench.models.adapter import ModelAdapter
from alignbench.scoring.network_pool import NetworkPool
from alignbench.scoring.score import score
from alignbench.settings.validation import Unit
from alignbench.statistics.intervals import compare, summary
from alignbench.statistics.resampling import Resampling
from alignbench.store.manifest import Manifest
from alignbench.store.run_folder import RunFolder, checked
from alignbench.store.scores import Scores
from alignbench.store.training_data import share_data
from alignbench.terminal.machine import memory_advice
from alignbench.training.tracking import Tracking
from alignbench.work_share import WorkShare

NUM_TRACKED = 4  # images of a look that a tracker is sent
NUM_RESAMPLES = 2000  # of intervals that are read while a run trains


@dataclass(frozen=True)
class EvaluationResult:
    """What one evaluator says of one look; `win_rate` is that over the start, with its 95 % interval over prompts.

    `network_passes` are those of training until then. Looks of older versions have none, and no mean.
    """

    step: int
    evaluator: str
    version: str
    n: int
    median: float
    win_rate: float
    ci_low: float
    ci_high: float
    network_passes: int = 0
    mean: float | None = None


Watch = Callable[[int, int, Sequence[EvaluationResult]], None]  # step, network passes, and what was found


class Validation:
    """The looks at one run.

    Args:
        prompts: what images are made of.
        evaluators: who scores them.
        folder: of the run.
        every: updates between two looks, or network passes.
        unit: which of them.
        select: names of the evaluators whose mean win rate over the start decides; none keeps the last weights.
        patience: looks without a better one after which training should end; None for no end.
        tracking: is told what every look found.

    Attributes:
        watch: called after each look in the main process; it ends the training by raising. None for nobody.
    """

    watch: Watch | None = None

    def __init__(
        self,
        prompts: PromptSet,
        sampling: Sampling,
        evaluators: Sequence[Evaluator],
        folder: RunFolder,
        accelerator: Accelerator,
        every: int,
        select: Sequence[str],
        patience: int | None,
        tracking: Tracking | None = None,
        unit: Unit = "updates",
    ) -> None:
        self.prompts, self.sampling, self.evaluators = prompts, sampling, evaluators
        self.folder, self.accelerator = folder, accelerator
        self.every, self.unit, self.select, self.patience = every, unit, select, patience
        self.tracking = tracking
        self.work_share = WorkShare(accelerator.process_index, accelerator.num_processes)
        self.network_pool = NetworkPool(accelerator.device)
        self.findings: list[EvaluationResult] = []
        self.best_step: int | None = None
        self.best_rate = -1.0
        self.best_distance = 0.0
        self.evaluations_since_best = 0

    # ---- the state that a killed run goes on from

    def state_dict(self) -> dict[str, Any]:
        """Return what the looks so far have found."""
        return {
            "findings": [asdict(finding) for finding in self.findings],
            "best_step": self.best_step,
            "best_rate": self.best_rate,
            "best_distance": self.best_distance,
            "looks_since": self.evaluations_since_best,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self.findings = [EvaluationResult(**finding) for finding in state["findings"]]
        self.best_step, self.best_rate = state["best_step"], state["best_rate"]
        self.best_distance = state["best_distance"]
        self.evaluations_since_best = state["looks_since"]

    # ---- looking

    @property
    def best_policy(self) -> Path:
        """Where the best weights so far lie."""
        return self.folder.path / "best"

    @property
    def last_step(self) -> int:
        """The step of the last look, -1 before the first."""
        return self.findings[-1].step if self.findings else -1

    def due(self, step: int, network_passes: int, is_end: bool = False) -> bool:
        """Return whether a multiple of `every` has been reached since the last look; at the end one is always due."""
        if is_end:
            return step > self.last_step
        now, last = step, self.last_step
        if self.unit == "network_passes":
            now, last = network_passes, self.findings[-1].network_passes if self.findings else -1
        return now // self.every > last // self.every

    @property
    def exhausted(self) -> bool:
        """Whether as many looks as `patience` found nothing better."""
        return self.patience is not None and self.evaluations_since_best >= self.patience

    def evaluate(
        self,
        step: int,
        model: ModelAdapter,
        save_policy: Callable[[Path], None],
        weight_distance: float,
        in_step: bool = False,
        network_passes: int = 0,
    ) -> None:
        """Make and score the images of a step; keep the weights if they are the best so far.

        Args:
            save_policy: writes the weights to a folder; all processes call it.
            weight_distance: of the weights from the start, known to the main process.
            in_step: whether all processes must call the network equally often, because each has shards of it.
            network_passes: of training so far.
        """
        folder = self._folder(step)
        if self.accelerator.is_main_process:
            folder.open(self._manifest(step, weight_distance))
        self.accelerator.wait_for_everyone()
        with memory_advice(
            "while images validate the training", "lower validation.batch_size, or leave validation out"
        ):
            self._make_images(folder, model, in_step)
        found = []
        if self.work_share.is_main:
            found = [self._compare(step, network_passes, evaluator) for evaluator in self.evaluators]
        (found,) = broadcast_object_list([found])
        self.findings += found
        if step > 0:
            self._choose(step, found, save_policy, weight_distance)
        if self.work_share.is_main:
            self._write()
            self._track(step, found)
            if self.watch is not None:
                self.watch(step, network_passes, found)

    def _make_images(self, folder: RunFolder, model: ModelAdapter, in_step: bool) -> None:
        """Make and score the images of a look."""
        sampling, device = self.sampling, self.accelerator.device
        # a collapsed policy may well give black images, and is to be found out, not to end the run
        generate(model, self.prompts, sampling, folder, self.work_share, in_step=in_step, refuse_black=False)
        images = image_set(self.prompts, sampling, model.resolution)
        score(folder, images, self.evaluators, sampling.batch_size, self.network_pool, self.work_share)
        if device.type != "cpu":
            self.network_pool.clear()  # training needs the memory
        self.accelerator.wait_for_everyone()

    def _track(self, step: int, found: Sequence[EvaluationResult]) -> None:
        if self.tracking is None:
            return
        name = f"eval/{self.prompts.name}"
        kinds = {evaluator.name: evaluator.summary for evaluator in self.evaluators}
        values = {f"{name}/{one.evaluator}/{(kind := kinds[one.evaluator])}": getattr(one, kind) for one in found}
        values |= {f"{name}/{one.evaluator}/win_rate_vs_start": one.win_rate for one in found}
        self.tracking.log(values, step)
        images = self._folder(step).images(self.prompts.name, self.sampling.hash)
        for prompt in islice(self.prompts, NUM_TRACKED):
            self.tracking.picture(
                f"{name}/{prompt.prompt_id}", images / self.sampling.file_name(prompt.prompt_id, 0), step
            )

    def _choose(
        self, step: int, found: Sequence[EvaluationResult], save_policy: Callable[[Path], None], weight_distance: float
    ) -> None:
        told = {finding.evaluator: finding for finding in found}
        if self.work_share.is_main:
            rates = (f"{name} {100 * one.win_rate:.0f} %" for name, one in told.items())
            tqdm.write(f"  step {step:<6} wins over the start: {', '.join(rates)}")
        if not self.select:
            return
        rate = sum(told[name].win_rate for name in self.select) / len(self.select)
        self.evaluations_since_best += 1
        if rate > self.best_rate:
            self.best_step, self.best_rate, self.evaluations_since_best = step, rate, 0
            self.best_distance = weight_distance
            save_policy(self.best_policy)
            if self.work_share.is_main:
                self.folder.record(self.best_policy)

    def finish(self, policy: Path) -> None:
        """Put the best weights in the place of the policy."""
        if self.work_share.is_main:
            recorded = self.folder.recorded(self.best_policy)
            # a kill after this may let the last updates be made again, when the best weights are there already
            if self.best_policy.exists() or not policy.exists() or sha256(policy) != recorded:
                best = checked(self.best_policy)
                shutil.rmtree(policy, ignore_errors=True)
                best.replace(policy)
        self.accelerator.wait_for_everyone()

    # ---- parts

    def _folder(self, step: int) -> RunFolder:
        return RunFolder(self.folder.path / "validation" / f"step-{step}")

    def _manifest(self, step: int, weight_distance: float) -> Manifest:
        run = self.folder.manifest
        name = f"step-{step}"
        start = Manifest(name, name, run.model, run.seed, run.config_hash, run.recipe_hash)
        return replace(start, weight_distance=weight_distance)

    def _scores(self, step: int, evaluator: Evaluator) -> Scores:
        place = (self.prompts.name, self.sampling.hash, evaluator.name, evaluator.version)
        return Scores.read(self._folder(step).score_file(*place))

    def _compare(self, step: int, network_passes: int, evaluator: Evaluator) -> EvaluationResult:
        now, start = self._scores(step, evaluator), self._scores(0, evaluator)
        prompts = {prompt.prompt_id: prompt for prompt in self.prompts}
        resampling = Resampling([prompts[one].prompt for one in now.prompt_id], NUM_RESAMPLES)
        sign = 1 if evaluator.higher_is_better else -1
        win_rate = compare(sign * now.score, sign * start.score, resampling).win_rate
        by_group = [prompts[one].groups[:1] for one in now.prompt_id] if evaluator.overall == "groups" else None
        name = (evaluator.name, evaluator.version)
        middle, average = summary(now.score, "median"), summary(now.score, "mean", by_group)
        rate = (win_rate.value, win_rate.low, win_rate.high)
        return EvaluationResult(step, *name, len(now.score), middle, *rate, network_passes, average)

    def _write(self) -> None:
        """Write `validation.csv` of the run: one line a look and evaluator."""
        text = io.StringIO()
        table = csv.DictWriter(text, list(EvaluationResult.__dataclass_fields__), lineterminator="\n")
        table.writeheader()
        table.writerows(asdict(finding) for finding in self.findings)
        write_text(self.folder.validation_table, text.getvalue())


def build_validation(
    cfg: DictConfig,
    followed: Sequence[str],
    data: Sequence[DataSource],
    training_data: np.ndarray,
    evaluated: PromptSet | None,
    folder: RunFolder,
    accelerator: Accelerator,
    tracking: Tracking | None,
) -> Validation | None:
    """Return who looks at a run while it trains, if its configuration asks for anybody.

    Args:
        followed: evaluators whose scores training follows. Those who judged its data may choose, on other prompts.
        data: what is trained on.
        training_data: its digests; see `alignbench.store.training_data`.
        evaluated: the prompts of the evaluation in the end, where there is one.

    Raises:
        UserError: what should be held out is not.
    """
    settings = cfg.validation
    if settings.every is None:
        return None
    evaluators = build(cfg.evaluators)
    select = [evaluators[key].name for key in settings.select or ()]
    if told := [name for name in select if name in followed]:
        raise UserError(f"validation.select={told[0]} is what training follows; choose evaluators that it does not")
    sharing = {one.name for one in evaluators.values() if share_data(one.training_data, training_data)}
    if told := [name for name in select if name in sharing]:
        raise UserError(
            f"validation.select={told[0]} learned from data of this training; choose evaluators that did not"
        )
    prompts = build(settings.prompts)
    for source in data:
        if shared := overlap(source.prompts, prompts):
            raise UserError(
                f"data={source.name} trains on {len(shared)} prompts of validation.prompts={prompts.name}, such as "
                f"{shared[0]!r}; choose other prompts for validation"
            )
    # looks that choose nothing cannot flatter what is measured at the end
    if select and evaluated is not None and (shared := overlap(evaluated.texts, prompts)):
        raise UserError(
            f"validation.prompts={prompts.name} shares {len(shared)} prompts with prompts={evaluated.name}, which "
            "measure the weights at the end; choose other prompts for validation"
        )
    sampling = Sampling(
        settings.num_inference_steps,
        settings.guidance_scale,
        batch_size=settings.batch_size,
        frames=frames_of(cfg.model),
    )
    able = [one for one in evaluators.values() if one.supports(prompts.texts) is None]
    rule = (settings.every, select, settings.patience)
    return Validation(prompts, sampling, able, folder, accelerator, *rule, tracking, settings.every_unit)
