"""What methods share that train random steps of a sampling, whose log-probability is known.

Policy and reference are asked again at the latents before such a step. What their answers make of the probability of
the latents after it is what the methods compare.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from alignbench.batch import PromptBatch
from alignbench.context import Context
from alignbench.diffusion.flow_matching import shifted_levels
from alignbench.diffusion.noise_levels import NoiseLevels
from alignbench.diffusion.samplers import LogProbScale, Reduction, Transition, TransitionKernel, log_prob
from alignbench.diffusion.schedule import Level
from alignbench.method import TrainedCalls
from alignbench.models.adapter import ModelAdapter
from alignbench.online.online_method import RolloutMethod
from alignbench.online.step_window import StepWindow
from alignbench.settings.section import Positive


@dataclass(frozen=True)
class StateBatch(PromptBatch):
    """Samplings on their way, each before one of its steps.

    Attributes:
        noisy_latents: before the step, [B, C, h, w].
        step: number of the step in its sampling, [B], int64, on the CPU.
        expected: what the reference predicts, [B, C, h, w]; None where nobody asks.
    """

    noisy_latents: Tensor
    step: Tensor
    expected: Tensor | None = field(default=None, kw_only=True)

    @staticmethod
    def before(number: int, batch: PromptBatch, noisy_latents: Tensor) -> "StateBatch":
        """Return samplings of these prompts before step `number`."""
        step = torch.full_like(batch.index, number)
        return StateBatch(batch.index, batch.prompts, batch.conditioning, noisy_latents=noisy_latents, step=step)


StateT = TypeVar("StateT", bound=StateBatch)


@dataclass(eq=False, kw_only=True)
class StochasticSampling(RolloutMethod[StateT]):
    """What such methods share.

    Attributes:
        rollout_shift: fixed shift of the sampling's noise levels, for flow models; None for the model's own levels.
        kernel: how random steps are made.
        window: chooses steps of the samplings of a round, and those of them that are trained.
        log_prob_reduction, log_prob_scale: see `log_prob`.
        detach_unconditional: whether no gradient goes through the unconditional call of classifier-free guidance.
    """

    rollout_shift: Positive | None
    kernel: TransitionKernel
    window: StepWindow
    log_prob_reduction: Reduction
    log_prob_scale: LogProbScale
    detach_unconditional: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        self.window.check(self.num_rollout_steps)

    @classmethod
    def trained_calls(cls, settings: Mapping[str, Any], model: ModelAdapter) -> TrainedCalls:
        guided = model.is_guided(settings["rollout_guidance_scale"])
        return TrainedCalls(rows=2 if guided and not settings["detach_unconditional"] else 1)

    # ---- the steps of a sampling

    def noise_levels(self, model: ModelAdapter) -> NoiseLevels:
        """Return the levels that a sampling visits."""
        if self.rollout_shift is None:
            return model.noise_levels(self.num_rollout_steps)
        return shifted_levels(model.schedule, self.num_rollout_steps, self.rollout_shift)

    def random_steps(self, context: Context) -> list[int]:
        """Return the numbers of the steps in this round's window."""
        num_rounds = context.step // self.updates_per_round
        return self.window.random_steps(self.num_rollout_steps, num_rounds, context)

    def levels(self, model: ModelAdapter, batch: StateBatch) -> tuple[Level, Level]:
        """Return the levels before and after the step, [B] each."""
        level = self.noise_levels(model).level
        return level[batch.step], level[batch.step + 1]

    # ---- what networks make of a step

    def predict(self, model: ModelAdapter, batch: StateBatch) -> Tensor:
        """Return the prediction for the latents before the step, [B, C, h, w], guided as in the sampling."""
        guidance = self.rollout_guidance_scale
        return model.predict(
            batch.noisy_latents,
            self.noise_levels(model).timesteps[batch.step],
            batch.conditioning,
            guidance,
            model.unconditional(guidance, batch.conditioning),
            self.detach_unconditional,
        )

    def with_expected(self, model: ModelAdapter, batches: Sequence[StateT]) -> list[StateT]:
        """Return micro-batches with what the reference predicts."""
        with model.reference():
            return [replace(batch, expected=self.predict(model, batch)) for batch in batches]

    def transition(self, model: ModelAdapter, batch: StateBatch, prediction: Tensor) -> Transition:
        """Return the Gaussian that a prediction makes of the step."""
        return self.kernel.transition(model.schedule, batch.noisy_latents, prediction, *self.levels(model, batch))

    def log_ratio(self, next_latents: Tensor, transition: Transition, other: Transition) -> Tensor:
        """Return the log-probability of the latents after the step by one Gaussian minus that by another, [B]."""
        density = partial(log_prob, next_latents, reduction=self.log_prob_reduction, scale=self.log_prob_scale)
        return density(transition) - density(other)
