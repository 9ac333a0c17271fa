"""Policy gradients on the path of a sampling: steps that add noise are actions, whose log-probability is known.

Some steps of the sampling are random, all others deterministic. The random steps are kept: the noisy latents before
and after each. In the update the policy is asked again at the latents before, and what it makes of the probability of
the latents after is the likelihood that the gradient follows. An image is worth one reward, which all its steps share.

The noisy latents that are kept are those that the sampling went on with, so that the log-probability is of what was
drawn. In the first update of a round, the policy is the one that sampled, and all ratios of probabilities are exactly
1. For later updates it is asked beforehand, in the micro-batches of the update: a network rounds differently in other
batches, and the ratios that are clipped differ from 1 by less than half precision resolves.
"""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from alignbench.batch import PromptBatch
from alignbench.context import Context
from alignbench.diffusion.flow_matching import shifted_levels
from alignbench.diffusion.noise_levels import NoiseLevels
from alignbench.diffusion.samplers import (
    LogProbScale,
    Reduction,
    Transition,
    TransitionKernel,
    divergence,
    log_prob,
    require_fresh_noise,
)
from alignbench.diffusion.schedule import Level
from alignbench.method import Loss, WeightCopies
from alignbench.models.adapter import ModelAdapter, Trajectory
from alignbench.objectives.denoising_error import sample_error
from alignbench.online.online_method import OnlineMethod, RolledOut
from alignbench.online.step_window import StepWindow
from alignbench.settings.section import NotNegative, Positive

KLForm = Literal["paper", "flow_grpo", "prediction"]


@dataclass(frozen=True)
class StepBatch(PromptBatch):
    """One random step of some rolled-out images, and what the images are worth.

    Attributes:
        noisy_latents, next_latents: before and after the step, [B, C, h, w].
        step: number of the step in its sampling, [B], int64, on the CPU.
        advantage: of each image over the others of its prompt, [B], float32.
        scores: by each reward, [B, K], float32.
        flat: see `RolledOut`.
        old: what the policy that sampled predicts, [B, C, h, w]; None where that is the policy still.
        expected: what the reference predicts, [B, C, h, w]; None where the method has none.
    """

    noisy_latents: Tensor
    next_latents: Tensor
    step: Tensor
    advantage: Tensor
    scores: Tensor
    flat: Tensor
    old: Tensor | None = None
    expected: Tensor | None = None


@dataclass(frozen=True, eq=False)
class StepComparison:
    """What an objective is a function of, one row a step of an image; all [B], float64.

    Attributes:
        log_ratio: log-probability of the step for the policy minus that for the policy which sampled, with a gradient.
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
class PathPolicy(OnlineMethod[StepBatch]):
    """What such methods share; each adds its objective.

    Attributes:
        rollout_shift: fixed shift of the sampling's noise levels, for flow models; None for the model's own levels.
        kernel: how random steps are made.
        window: which steps are random, and which of these are trained.
        log_prob_reduction, log_prob_scale: see `log_prob`.
        share_initial_noise: whether the images of a prompt start from the same noise.
        detach_unconditional: whether no gradient goes through the unconditional call of classifier-free guidance.
        kl_weight: factor on the distance from the reference; 0 needs no reference.
        kl_form: how it is measured. `paper`: Kullback-Leibler divergence of the steps. `flow_grpo`: that times the
            length of the step in tau, which shifts weight to long steps. `prediction`: mean squared distance of the
            predictions.
    """

    rollout_shift: Positive | None
    kernel: TransitionKernel
    window: StepWindow
    log_prob_reduction: Reduction
    log_prob_scale: LogProbScale
    share_initial_noise: bool
    detach_unconditional: bool
    kl_weight: NotNegative
    kl_form: KLForm

    def __post_init__(self) -> None:
        super().__post_init__()
        self.window.check(self.num_rollout_steps)

    # ---- what a method adds

    @abstractmethod
    def objective(self, steps: StepComparison) -> tuple[Tensor, Tensor]:
        """Return the loss of each step but for the distance from the reference, and whether it has no gradient, [B]."""

    # ---- the method, as the loop knows it

    @classmethod
    def weight_copies(cls, settings: Mapping[str, Any]) -> WeightCopies:
        return WeightCopies(reference=settings["kl_weight"] > 0)

    @property
    def needs_reference(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.kl_weight > 0

    def rollout(self, model: ModelAdapter, batch: PromptBatch, context: Context) -> Iterable[list[StepBatch]]:
        with torch.no_grad():
            images, trajectories = self.roll_out(model, batch, context)
            steps = self.trained_steps(images, trajectories, context)
            size = len(images) // self.updates_per_round
            updates = [
                [
                    micro_batch
                    for step in steps
                    for micro_batch in step.rows(start, start + size).split(context.micro_batch_size)
                ]
                for start in range(0, len(images), size)
            ]
            updates = [updates[0], *(self.with_old(model, batches) for batches in updates[1:])]
            if self.needs_reference:
                updates = [self.with_expected(model, batches) for batches in updates]
        yield from updates

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
            metrics["kl"] = distance.detach()
        return Loss.mean(values.float(), metrics)

    # ---- sampling

    def noise_levels(self, model: ModelAdapter) -> NoiseLevels:
        """Return the levels that a sampling visits."""
        if self.rollout_shift is None:
            return model.noise_levels(self.num_rollout_steps)
        return shifted_levels(model.schedule, self.num_rollout_steps, self.rollout_shift)

    def random_steps(self, context: Context) -> list[int]:
        """Return the numbers of the steps that add noise in this round."""
        num_rounds = context.step // self.updates_per_round
        return self.window.random_steps(self.num_rollout_steps, num_rounds, context)

    def sample(self, model: ModelAdapter, batch: PromptBatch, context: Context) -> Trajectory:
        index = batch.index - batch.index % self.group_size if self.share_initial_noise else batch.index
        noise = context.noise(index, model.latent_shape, "rollout").to(model.device)
        noise_levels, guidance = self.noise_levels(model), self.rollout_guidance_scale
        random_steps = {}
        for number in self.random_steps(context):
            fresh = context.noise(batch.index, model.latent_shape, f"step{number}")
            random_steps[number] = partial(self.random_step, model, noise_levels.level[number : number + 2], fresh)
        return model.sample(
            noise,
            batch.conditioning,
            noise_levels,
            guidance,
            model.unconditional(guidance, batch.conditioning),
            keep_states=True,
            random_steps=random_steps,
        )

    def random_step(
        self, model: ModelAdapter, levels: Level, noise: Tensor, noisy_latents: Tensor, prediction: Tensor
    ) -> Tensor:
        """Return the next latents.

        Args:
            levels: that of the noisy latents, and the next.
            noise: unit Gaussian, [B, C, h, w].
        """
        transition = self.kernel.transition(model.schedule, noisy_latents, prediction, levels[0], levels[1])
        require_fresh_noise(transition.std)
        return transition.draw(noise)

    def trained_steps(self, images: RolledOut, trajectories: Sequence[Trajectory], context: Context) -> list[StepBatch]:
        """Return the steps of all images that are trained in this round, one batch a step."""
        steps = []
        for number in self.window.trained_steps(self.random_steps(context), context):
            states = [[*one.noisy_latents, one.latents] for one in trajectories]
            steps.append(
                StepBatch(
                    images.index,
                    images.prompts,
                    images.conditioning,
                    noisy_latents=torch.cat([one[number] for one in states]),
                    next_latents=torch.cat([one[number + 1] for one in states]),
                    step=torch.full_like(images.index, number),
                    advantage=images.advantage,
                    scores=images.scores,
                    flat=images.flat,
                )
            )
        return steps

    # ---- the policy, the one that sampled, and the reference

    def predict(self, model: ModelAdapter, batch: StepBatch) -> Tensor:
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

    def with_old(self, model: ModelAdapter, batches: Sequence[StepBatch]) -> list[StepBatch]:
        """Return micro-batches with what the policy predicts now, before it is changed."""
        return [replace(batch, old=self.predict(model, batch)) for batch in batches]

    def with_expected(self, model: ModelAdapter, batches: Sequence[StepBatch]) -> list[StepBatch]:
        """Return micro-batches with what the reference predicts."""
        with model.reference():
            return [replace(batch, expected=self.predict(model, batch)) for batch in batches]

    def levels(self, model: ModelAdapter, batch: StepBatch) -> tuple[Level, Level]:
        """Return the levels before and after the step, [B] each."""
        level = self.noise_levels(model).level
        return level[batch.step], level[batch.step + 1]

    def transition(self, model: ModelAdapter, batch: StepBatch, prediction: Tensor) -> Transition:
        """Return what a prediction makes of the step."""
        return self.kernel.transition(model.schedule, batch.noisy_latents, prediction, *self.levels(model, batch))

    def comparison(self, model: ModelAdapter, batch: StepBatch, prediction: Tensor) -> StepComparison:
        """Compare the policy, whose prediction is given, with the one that sampled."""
        policy = self.transition(model, batch, prediction)
        old = self.transition(model, batch, prediction.detach() if batch.old is None else batch.old)
        density = partial(log_prob, batch.next_latents, reduction=self.log_prob_reduction, scale=self.log_prob_scale)
        return StepComparison(
            log_ratio=density(policy) - density(old),
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
