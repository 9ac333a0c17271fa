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
from alignbench.diffusion.samplers import require_fresh_noise
from alignbench.diffusion.schedule import Level
from alignbench.models.adapter import ModelAdapter
from alignbench.models.predictor import Trajectory
from alignbench.online.online_method import OnlineMethod, RolledOut
from alignbench.online.stochastic_sampling import StateBatch, StochasticSampling


@dataclass(frozen=True)
class StepBatch(StateBatch):
    """One random step of some rolled-out images, and what the images are worth.

    Attributes:
        next_latents: after the step, [B, C, h, w].
        advantage: of each image over the others of its prompt, [B], float32.
        scores: by each reward, [B, K], float32.
        flat: see `RolledOut`.
        old: what the policy that sampled predicts, [B, C, h, w]; None where that is the policy still, or nobody asks.
    """

    next_latents: Tensor
    advantage: Tensor
    scores: Tensor
    flat: Tensor
    old: Tensor | None = None


@dataclass(eq=False, kw_only=True)
class PathSampling(StochasticSampling[StepBatch], OnlineMethod[StepBatch]):
    """What such methods share. The steps that the window chooses are random.

    Attributes:
        share_initial_noise: whether the images of a prompt start from the same noise.
        rows_together: how many consecutive images a micro-batch must not part.
    """

    share_initial_noise: bool
    rows_together: ClassVar[int] = 1

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

    def with_old(self, model: ModelAdapter, batches: Sequence[StepBatch]) -> list[StepBatch]:
        """Return micro-batches with what the policy predicts now, before it is changed."""
        return [replace(batch, old=self.predict(model, batch)) for batch in batches]
