"""Online methods that keep nothing of a rollout but its images: these are noised anew, and trained by their advantage.

The rollout may use any sampler, and the trained network is asked at freely chosen noise levels, so no log-probability
of a sampling step is needed.
"""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from alignbench.batch import ImageBatch, PromptBatch
from alignbench.context import Context
from alignbench.method import Loss, WeightCopies
from alignbench.models.adapter import ModelAdapter
from alignbench.models.lagged_weights import Lag
from alignbench.objectives.denoising_error import sample_error
from alignbench.online.online_method import OnlineMethod, RolledOut
from alignbench.online.trained_levels import TrainedLevels
from alignbench.settings.section import NotNegative

RolloutPolicy = Literal["policy", "old"]


@dataclass(frozen=True)
class RewardedBatch(ImageBatch):
    """Rolled-out images at one noise level each, and what they are worth.

    Attributes:
        noise: put on the images, [B, C, h, w].
        timesteps: of the noise levels, [B], float64.
        advantage: of each image over the others of its prompt, [B], float32.
        scores: by each reward, [B, K], float32.
        flat: see `RolledOut`.
        old, expected: what the old policy and the reference predict for the noised images, [B, C, h, w]; None where
            the method has none.
        group_weight: a factor that depends on the whole group of each image, [B], float32; None for most methods.
    """

    noise: Tensor
    timesteps: Tensor
    advantage: Tensor
    scores: Tensor
    flat: Tensor
    old: Tensor | None = None
    expected: Tensor | None = None
    group_weight: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Predictions:
    """What an objective is a function of, one row an image at a noise level.

    Attributes:
        policy: prediction of the policy, [B, C, h, w], with a gradient.
        old: of the old policy, without a gradient; the policy's own where the method keeps no old one.
        expected: of the reference; None where the method has none.
        target: what a perfect network predicts, [B, C, h, w].
        sigma: share of noise at the level, [B].
        advantage: [B].
        group_weight: see `RewardedBatch`.
    """

    policy: Tensor
    old: Tensor
    expected: Tensor | None
    target: Tensor
    sigma: Tensor
    advantage: Tensor
    group_weight: Tensor | None


@dataclass(eq=False, kw_only=True)
class ForwardProcess(OnlineMethod[RewardedBatch]):
    """What such methods share; each adds its objective.

    Attributes:
        rollout_policy: who samples the images: the policy, or the old policy.
        levels: noise levels at which each image is trained.
        share_noise: whether the images of a prompt meet the same noise.
        lag: how far the old policy stays behind; None where there is none.
        kl_weight: factor on the squared distance of predictions from the reference's; 0 needs no reference.
    """

    rollout_policy: RolloutPolicy
    levels: TrainedLevels
    share_noise: bool
    lag: Lag | None
    kl_weight: NotNegative

    def __post_init__(self) -> None:
        super().__post_init__()
        self.levels.check(self.num_rollout_steps)
        if self.rollout_policy == "old" and self.lag is None:
            raise ValueError("method.rollout_policy=old needs method.lag, which says how the old policy follows")

    # ---- what a method adds

    @abstractmethod
    def objective(self, predictions: Predictions) -> Tensor:
        """Return the loss of each image at its noise level, [B], but for the distance from the reference."""

    def group_weights(self, batches: Sequence[RewardedBatch], model: ModelAdapter) -> list[RewardedBatch]:
        """Return the micro-batches of an update with their `group_weight`; by default as they are.

        It is called just before the update, without a gradient. Each process has whole groups; the rows of one may lie
        in several micro-batches.
        """
        return list(batches)

    # ---- the method, as the loop knows it

    @classmethod
    def weight_copies(cls, settings: Mapping[str, Any]) -> WeightCopies:
        return WeightCopies(reference=settings["kl_weight"] > 0, old=settings["lag"] is not None)

    @property
    def needs_reference(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.kl_weight > 0

    def rollout(self, model: ModelAdapter, batch: PromptBatch, context: Context) -> Iterable[list[RewardedBatch]]:
        with torch.no_grad():
            if self.rollout_policy == "old":
                with model.old_policy():
                    images, _ = self.roll_out(model, batch, context)
            else:
                images, _ = self.roll_out(model, batch, context)
            updates = [self.noised(model, images.take(rows), context) for rows in self.rows_of_updates(images.index)]
        for batches in updates:
            with torch.no_grad():
                coupled = self.group_weights(batches, model)
            yield coupled
        if self.lag is not None and model.lagged_weights is not None:
            model.lagged_weights.follow(self.lag.decay(context.step + self.updates_per_round))

    def noised(self, model: ModelAdapter, images: RolledOut, context: Context) -> list[RewardedBatch]:
        """Return the images at all their levels, as micro-batches, with what old policy and reference predict."""
        timesteps = self.levels.timesteps(images.index, model.noise_levels(self.num_rollout_steps), context)
        first = images.index - images.index % self.group_size  # of the group
        batches: list[RewardedBatch] = []
        for number, column in enumerate(timesteps.unbind(1)):
            noise = context.noise(first if self.share_noise else images.index, model.latent_shape, f"noise{number}")
            row = RewardedBatch(
                images.index,
                images.prompts,
                images.conditioning,
                images.latents,
                noise=noise.to(images.latents.device),
                timesteps=column.to(images.latents.device, non_blocking=True),
                advantage=images.advantage,
                scores=images.scores,
                flat=images.flat,
            )
            batches += row.split(context.micro_batch_size)
        if self.lag is not None:
            with model.old_policy():
                batches = [replace(batch, old=self.predict(model, batch)) for batch in batches]
        if self.kl_weight > 0:
            with model.reference():
                batches = [replace(batch, expected=self.predict(model, batch)) for batch in batches]
        return batches

    def predict(self, model: ModelAdapter, batch: RewardedBatch) -> Tensor:
        """Return the prediction for the noised images, [B, C, h, w], without guidance (the network's own, if any)."""
        noisy = model.schedule.add_noise(batch.latents, batch.noise, model.schedule.level(batch.timesteps))
        return model.predict(noisy, batch.timesteps, batch.conditioning)

    def predictions(self, model: ModelAdapter, batch: RewardedBatch) -> Predictions:
        """Ask the policy, and put beside its answer what the others said before."""
        policy, level = self.predict(model, batch), model.schedule.level(batch.timesteps)
        return Predictions(
            policy=policy,
            old=policy.detach() if batch.old is None else batch.old,
            expected=batch.expected,
            target=model.schedule.target(batch.latents, batch.noise, level),
            sigma=level.sigma.to(policy.device),
            advantage=batch.advantage,
            group_weight=batch.group_weight,
        )

    def loss(self, model: ModelAdapter, batch: RewardedBatch, context: Context) -> Loss:
        predictions = self.predictions(model, batch)
        values = self.objective(predictions)
        metrics = self.reward_metrics(batch.scores) | {
            "advantage": batch.advantage,
            "flat_groups": batch.flat.float(),
            "moved": sample_error(predictions.policy.detach(), predictions.old),
        }
        if predictions.expected is not None:
            distance = sample_error(predictions.policy, predictions.expected)
            values = values + self.kl_weight * distance
            metrics |= {"kl": distance.detach()}
        return Loss.mean(values, metrics)
