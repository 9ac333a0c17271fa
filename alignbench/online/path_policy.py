"""Policy gradients on the path of a sampling, by the ratio of the policy to the one that sampled.

In the first update of a round the policy is the one that sampled, and all ratios of probabilities are exactly 1. For
later updates it is asked beforehand, in the micro-batches of the update: a network rounds differently in other batches,
and the ratios that are clipped differ from 1 by less than half precision resolves.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from alignbench.context import Context
from alignbench.diffusion.samplers import divergence
from alignbench.method import Loss, WeightCopies
from alignbench.models.adapter import ModelAdapter
from alignbench.objectives.denoising_error import sample_error
from alignbench.online.path_sampling import PathSampling, StepBatch
from alignbench.settings.section import NotNegative

KLForm = Literal["paper", "flow_grpo", "prediction"]


@dataclass(frozen=True, eq=False)
class StepComparison:
    """What an objective is a function of, one row a step of an image; all [B], float64.

    Attributes:
        log_ratio: log-probability of the step by the policy minus that by the policy which sampled, with a gradient.
        divergence: Kullback-Leibler divergence of the two, with a gradient.
        std: standard deviation of the noise that the step adds.
        sensitivity: how far the mean of the step moves when the prediction does.
        advantage: of the image.
    """

    log_ratio: Tensor
    divergence: Tensor
    std: Tensor
    sensitivity: Tensor
    advantage: Tensor


@dataclass(eq=False, kw_only=True)
class PathPolicy(PathSampling):
    """What such methods share; each adds its objective.

    Attributes:
        kl_weight: factor on the distance from the reference; 0 needs no reference.
        kl_form: how it is measured. `paper`: Kullback-Leibler divergence of the steps. `flow_grpo`: that times the
            length of the step in tau, which shifts weight to long steps. `prediction`: mean squared distance of the
            predictions.
    """

    kl_weight: NotNegative
    kl_form: KLForm

    @abstractmethod
    def objective(self, steps: StepComparison) -> tuple[Tensor, Tensor]:
        """Return the loss of each step but for the distance from the reference, and whether it has no gradient, [B]."""

    @classmethod
    def weight_copies(cls, settings: Mapping[str, Any]) -> WeightCopies:
        return WeightCopies(reference=settings["kl_weight"] > 0)

    @property
    def needs_reference(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.kl_weight > 0

    def with_predictions(self, model: ModelAdapter, updates: Sequence[list[StepBatch]]) -> list[list[StepBatch]]:
        updates = [updates[0], *(self.with_old(model, batches) for batches in updates[1:])]
        return [self.with_expected(model, batches) for batches in updates] if self.needs_reference else updates

    def loss(self, model: ModelAdapter, batch: StepBatch, context: Context) -> Loss:
        prediction = self.predict(model, batch)
        steps = self.comparison(model, batch, prediction)
        values, stopped = self.objective(steps)
        metrics = self.reward_metrics(batch.scores) | {
            "advantage": batch.advantage,
            "flat_groups": batch.flat.float(),
            "ratio_deviation": (steps.log_ratio.detach().exp() - 1).abs(),
            "moved": steps.divergence.detach(),
            "stopped_up": stopped.double().where(batch.advantage > 0, torch.nan),
            "stopped_down": stopped.double().where(batch.advantage < 0, torch.nan),
        }
        if batch.expected is not None:
            distance = self.distance(model, batch, prediction, batch.expected)
            values = values + self.kl_weight * distance
            metrics |= {"kl": distance.detach()}
        return Loss.mean(values.float(), metrics)

    def comparison(self, model: ModelAdapter, batch: StepBatch, prediction: Tensor) -> StepComparison:
        """Compare the policy, whose prediction is given, with the one that sampled."""
        policy = self.transition(model, batch, prediction)
        old = self.transition(model, batch, prediction.detach() if batch.old is None else batch.old)
        return StepComparison(
            log_ratio=self.log_ratio(batch.next_latents, policy, old),
            divergence=divergence(policy, old, self.log_prob_reduction),
            std=policy.std.to(prediction.device),
            sensitivity=self.kernel.sensitivity(model.schedule, *self.levels(model, batch)).to(prediction.device),
            advantage=batch.advantage.double(),
        )

    def distance(self, model: ModelAdapter, batch: StepBatch, prediction: Tensor, expected: Tensor) -> Tensor:
        """Return the distance of policy and reference in the chosen form, [B]."""
        if self.kl_form == "prediction":
            return sample_error(prediction, expected)
        one, other = (self.transition(model, batch, p) for p in (prediction, expected))
        distance = divergence(one, other, self.log_prob_reduction)
        if self.kl_form == "flow_grpo":
            level, next_level = self.levels(model, batch)
            distance = distance * (level.tau - next_level.tau).to(distance)
        return distance
