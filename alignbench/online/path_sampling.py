"""Methods on the path of a sampling: steps that add noise are actions, whose log-probability is known.

Some steps of the sampling are random, all others deterministic. The random steps are kept: the noisy latents before
and after each. In the update the policy is asked again at the latents before, and what its answer makes of the
probability of the latents after is the likelihood that the gradient follows. An image is worth one reward, which all
its steps share.

The latents that are kept are those that the sampling went on with, so that the log-probability is of what was drawn.
"""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

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
    log_prob,
    require_fresh_noise,
)
from alignbench.diffusion.schedule import Level
from alignbench.models.adapter import ModelAdapter
from alignbench.models.predictor import Trajectory
from alignbench.online.online_method import OnlineMethod, RolledOut
from alignbench.online.step_window import StepWindow
from alignbench.settings.section import Positive


@dataclass(frozen=True)
class StepBatch(PromptBatch):
    """One random step of some rolled-out images, and what the images are worth.

    Attributes:
        noisy_latents, next_latents: before and after the step, [B, C, h, w].
        step: number of the step in its sampling, [B], int64, on the CPU.
        advantage: of each image over the others of its prompt, [B], float32.
        scores: by each reward, [B, K], float32.
        flat: see `RolledOut`.
        old: what the policy that sampled predicts, [B, C, h, w]; None where that is the policy still, or nobody asks.
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


@dataclass(eq=False, kw_only=True)
class PathSampling(OnlineMethod[StepBatch]):
    """What such methods share.

    Attributes:
        rollout_shift: fixed shift of the sampling's noise levels, for flow models; None for the model's own levels.
        kernel: how random steps are made.
        window: which steps are random, and which of these are trained.
        log_prob_reduction, log_prob_scale: see `log_prob`.
        share_initial_noise: whether the images of a prompt start from the same noise.
        detach_unconditional: whether no gradient goes through the unconditional call of classifier-free guidance.
        rows_together: how many consecutive images a micro-batch must not part.
    """

    rollout_shift: Positive | None
    kernel: TransitionKernel
    window: StepWindow
    log_prob_reduction: Reduction
    log_prob_scale: LogProbScale
    share_initial_noise: bool
    detach_unconditional: bool
    rows_together: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.window.check(self.num_rollout_steps)

    @abstractmethod
    def with_predictions(self, model: ModelAdapter, updates: Sequence[list[StepBatch]]) -> list[list[StepBatch]]:
        """Return the micro-batches of a round's updates with what other networks predict for them.

        It is called before the first update, without a gradient: the policy is the one that sampled.
        """

    def rollout(self, model: ModelAdapter, batch: PromptBatch, context: Context) -> Iterable[list[StepBatch]]:
        micro_batch_size = max(context.micro_batch_size // self.rows_together, 1) * self.rows_together
        with torch.no_grad():
            images, trajectories = self.roll_out(model, batch, context)
            steps = self.trained_steps(images, trajectories, context)
            size = len(images) // self.updates_per_round
            updates = [
                [part for step in steps for part in step.rows(start, start + size).split(micro_batch_size)]
                for start in range(0, len(images), size)
            ]
            updates = self.with_predictions(model, updates)
        yield from updates

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
        trajectory = model.sample(
            noise,
            batch.conditioning,
            noise_levels,
            guidance,
            model.unconditional(guidance, batch.conditioning),
            keep_states=True,
            random_steps=random_steps,
        )
        return replace(trajectory, predictions=[])  # as large as the states, and asked for anew in the update

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
        """Return the steps that are trained in this round, one batch a step, the images of an update in one piece."""
        rows = [row for of_update in self.rows_of_updates(images.index) for row in of_update]
        images, states = images.take(rows), [[*one.noisy_latents, one.latents] for one in trajectories]
        return [
            StepBatch(
                images.index,
                images.prompts,
                images.conditioning,
                noisy_latents=torch.cat([one[number] for one in states])[rows],
                next_latents=torch.cat([one[number + 1] for one in states])[rows],
                step=torch.full_like(images.index, number),
                advantage=images.advantage,
                scores=images.scores,
                flat=images.flat,
            )
            for number in self.window.trained_steps(self.random_steps(context), context)
        ]

    # ---- what networks make of a step

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
        """Return the Gaussian that a prediction makes of the step."""
        return self.kernel.transition(model.schedule, batch.noisy_latents, prediction, *self.levels(model, batch))

    def log_ratio(self, batch: StepBatch, transition: Transition, other: Transition) -> Tensor:
        """Return the log-probability of the latents after the step by one Gaussian minus that by another, [B]."""
        density = partial(log_prob, batch.next_latents, reduction=self.log_prob_reduction, scale=self.log_prob_scale)
        return density(transition) - density(other)
