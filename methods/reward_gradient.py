"""What methods share that differentiate a reward through the last sampling steps, which are taken with a gradient.

An image is sampled without a gradient up to the state where the gradient begins: that is the rollout. The steps that
are left, the decoder and the reward are the loss. So memory is bounded by the micro-batch, and no call without a
gradient shares an autocast region with one that has it, where the cast weights of the former would be used again and
weights lose their gradient (PyTorch #112583).
"""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from alignbench.batch import PromptBatch
from alignbench.context import Context
from alignbench.diffusion.noise_levels import NoiseLevels
from alignbench.diffusion.schedule import Level
from alignbench.errors import UserError
from alignbench.evaluator import Reward
from alignbench.method import Loss, Method, TrainedCalls, WeightCopies
from alignbench.models.adapter import ModelAdapter
from alignbench.models.predictor import Trajectory
from alignbench.objectives.denoising_error import sample_error
from alignbench.online.rewards import reward_of
from alignbench.settings.section import Count, NotNegative, Positive, Share


def reward_loss(reward: Tensor, margin: float | None) -> Tensor:
    """Return margin - reward where that is positive and 0 elsewhere, [B]; minus the reward without a margin."""
    return -reward if margin is None else F.relu(margin - reward)


@dataclass(frozen=True)
class LastSteps(PromptBatch):
    """Images that are nearly sampled, and the steps that are left.

    Attributes:
        noisy_latents: where the gradient begins, [B, C, h, w].
        timesteps: label given to the network before each step, [B, K], float64.
        level: level before each step and after the last, alpha and sigma [B, K + 1].
        expected: what the reference predicts in each step, [B, K, C, h, w]; None if it is not asked.
    """

    noisy_latents: Tensor
    timesteps: Tensor
    level: Level
    expected: Tensor | None = None

    @classmethod
    def of(cls, batch: PromptBatch, noisy_latents: Tensor, levels: NoiseLevels) -> Self:
        """Return the steps along levels that all images share, from latents at the first of these."""
        return cls(
            batch.index,
            batch.prompts,
            batch.conditioning,
            noisy_latents=noisy_latents,
            timesteps=levels.timesteps.expand(len(batch), -1),
            level=Level(levels.level.alpha.expand(len(batch), -1), levels.level.sigma.expand(len(batch), -1)),
        )

    @property
    def noise_levels(self) -> NoiseLevels:
        """The levels of the steps, of each image."""
        return NoiseLevels(self.timesteps.T, Level(self.level.alpha.T, self.level.sigma.T))


@dataclass(eq=False, kw_only=True)
class RewardGradient(Method[LastSteps]):
    """A method that trains on the gradient of a reward; each adds where that gradient begins.

    Attributes:
        name: as typed in `method=`.
        reward: what is optimised.
        reward_weight: factor on the loss of the reward.
        margins: by the name of a reward, in its unit: images above it are not pushed further. A reward that is not
            named has no limit.
        num_rollout_steps, rollout_guidance_scale: how images are sampled, in the steps with a gradient as in those
            before; a scale of None is the family's default.
        rollout_batch_size: images sampled at once without a gradient; None for the micro-batch size of training.
        min_sigma: levels with less noise are left out. The last step that is left ends at the clean image.
        kl_weight: factor on the squared distance of the predictions with a gradient from the reference's; 0 needs none.
    """

    reads_pixels: ClassVar[bool] = True
    differentiates_pixels: ClassVar[bool] = True

    name: str
    reward: Reward
    reward_weight: Positive
    margins: Mapping[str, float]
    num_rollout_steps: Count
    rollout_guidance_scale: NotNegative | None
    rollout_batch_size: Count | None
    min_sigma: Share
    kl_weight: NotNegative

    def __post_init__(self) -> None:
        if not isinstance(self.reward, Reward):
            raise ValueError(
                f"method={self.name} follows the gradient of its reward, and reward={self.reward.name} has none"
            )

    @property
    def margin(self) -> float | None:
        """That of the reward which is optimised."""
        return self.margins.get(self.reward.name)

    # ---- what a method adds

    @abstractmethod
    def rolled_out(self, model: ModelAdapter, batch: PromptBatch, context: Context) -> list[LastSteps]:
        """Sample an image for each row, and return what is left to do; called without a gradient."""

    @classmethod
    def most_steps(cls, settings: Mapping[str, Any]) -> int:
        """Return the largest number of steps with a gradient; a random one may seldom exceed it."""
        return 1

    # ---- the method, as the loop knows it

    @classmethod
    def weight_copies(cls, settings: Mapping[str, Any]) -> WeightCopies:
        return WeightCopies(reference=settings["kl_weight"] > 0)

    @classmethod
    def trained_calls(cls, settings: Mapping[str, Any], model: ModelAdapter) -> TrainedCalls:
        return TrainedCalls(cls.most_steps(settings), 2 if model.is_guided(settings["rollout_guidance_scale"]) else 1)

    @property
    def needs_reference(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.kl_weight > 0

    def rollout(self, model: ModelAdapter, batch: PromptBatch, context: Context) -> Iterable[list[LastSteps]]:
        with torch.no_grad():
            chunks = batch.split(self.rollout_batch_size or context.micro_batch_size)
            begun = [steps for chunk in chunks for steps in self.rolled_out(model, chunk, context)]
            batches = [part for steps in begun for part in steps.split(context.micro_batch_size)]
            if self.kl_weight > 0:
                batches = [self.with_expected(model, part) for part in batches]
        yield batches

    def loss(self, model: ModelAdapter, batch: LastSteps, context: Context) -> Loss:
        levels = batch.noise_levels
        trajectory = self.walk(model, batch, batch.noisy_latents, levels, grad_last=len(levels), keep_states=True)
        pixels = model.decode_latents(trajectory.latents)
        self.reward_calls += len(pixels) * len(self.reward.components)
        reward = reward_of(self.reward, pixels, batch.prompts)
        values = self.reward_weight * reward_loss(reward, self.margin)

        seen = reward.detach()
        metrics = {
            "reward": seen,
            "hinged": torch.zeros_like(seen) if self.margin is None else (seen > self.margin).float(),
            "num_grad_steps": torch.full_like(seen, len(levels)),
            "sigma": batch.level.sigma[:, 0].to(seen),
        }
        if batch.expected is not None:
            pairs = zip(trajectory.predictions, batch.expected.unbind(1), strict=True)
            distance = torch.stack([sample_error(prediction, expected) for prediction, expected in pairs]).mean(0)
            values = values + self.kl_weight * distance
            metrics |= {"kl": distance.detach()}
        return Loss.mean(values, metrics)

    # ---- sampling

    def noise_levels(self, model: ModelAdapter) -> NoiseLevels:
        """Return the noise levels of the sampling that makes the images.

        Raises:
            UserError: if `min_sigma` leaves none.
        """
        levels = model.noise_levels(self.num_rollout_steps).down_to(self.min_sigma)
        if not len(levels):
            raise UserError(f"method.min_sigma={self.min_sigma:g} leaves no noise level to sample from; lower it")
        return levels

    def initial_noise(self, model: ModelAdapter, batch: PromptBatch, context: Context) -> Tensor:
        """Return what each image is sampled from, [B, C, h, w]."""
        return context.noise(batch.index, model.latent_shape, "rollout").to(model.device)

    def walk(
        self,
        model: ModelAdapter,
        batch: PromptBatch,
        state: Tensor,
        levels: NoiseLevels,
        grad_last: int = 0,
        keep_states: bool = False,
    ) -> Trajectory:
        """Sample on from `state` [B, C, h, w], which is at the first of the levels; see `ModelAdapter.sample`."""
        guidance = self.rollout_guidance_scale
        empty = model.unconditional(guidance, batch.conditioning)
        return model.sample(state, batch.conditioning, levels, guidance, empty, grad_last, keep_states)

    def with_expected(self, model: ModelAdapter, batch: LastSteps) -> LastSteps:
        """Add what the reference predicts in each step, at the states that the policy is going to visit."""
        levels, guidance = batch.noise_levels, self.rollout_guidance_scale
        walked = self.walk(model, batch, batch.noisy_latents, levels.steps(0, len(levels) - 1), keep_states=True)
        expected = []
        with model.reference():
            empty = model.unconditional(guidance, batch.conditioning)
            for state, timesteps in zip((*walked.noisy_latents, walked.latents), levels.timesteps, strict=True):
                expected.append(model.predict(state, timesteps, batch.conditioning, guidance, empty))
        return replace(batch, expected=torch.stack(expected, dim=1))
