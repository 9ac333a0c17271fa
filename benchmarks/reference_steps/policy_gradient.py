"""Plain steps on images that the policy makes and a reward scores: Flow-GRPO and DiffusionNFT.

Sources: arXiv 2505.05470 (Flow-GRPO), 2509.16117 (DiffusionNFT), and what their training scripts do.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from alignbench.batch import Conditioning
from benchmarks.reference_steps.model import Draws, PlainModel, Sample
from benchmarks.reference_steps.rewards import PlainReward
from benchmarks.reference_steps.step import PlainStep


@dataclass(frozen=True)
class Rollouts:
    """How the images of a round are made and compared.

    Attributes:
        batch_size: images sampled at once.
        num_steps, guidance: of the sampling.
        group_size: consecutive images that share a prompt.
        spread: advantages are divided by the standard deviation of the group, or of the round.
        clip: largest absolute advantage.
    """

    batch_size: int
    num_steps: int
    guidance: float | None
    group_size: int
    spread: Literal["group", "round"]
    clip: float


class GroupStep(PlainStep):
    """What both share: rewards of pictures, and advantages over the images of a prompt."""

    def __init__(
        self, model: PlainModel, micro_batch_size: int, draws: Draws, reward: PlainReward, rollouts: Rollouts
    ) -> None:
        super().__init__(model, micro_batch_size, draws)
        self.reward, self.rollouts = reward, rollouts

    @torch.no_grad()
    def scored(self, samples: Sequence[Sample]) -> tuple[Conditioning, Tensor]:
        """Sample all images of a round; return the features of their prompts, and their advantages, [N], float32."""
        size, encoded, rewards = self.rollouts.batch_size, [], []
        for start in range(0, len(samples), size):
            chunk = samples[start : start + size]
            prompts = [sample.prompt for sample in chunk]
            encoded.append(self.model.encode_prompts(prompts))
            latents = self.sampled(chunk, encoded[-1])
            rewards.append(self.reward.score_pictures(self.model.decode(latents), prompts))
        groups = torch.cat(rewards).double().reshape(-1, self.rollouts.group_size)
        std = groups.std(1, correction=0, keepdim=True) if self.rollouts.spread == "group" else groups.std(correction=0)
        advantage = (groups - groups.mean(1, keepdim=True)) / (std + 1e-4)
        return Conditioning.cat(encoded), advantage.clamp(-self.rollouts.clip, self.rollouts.clip).flatten().float()

    @abstractmethod
    def sampled(self, samples: Sequence[Sample], conditioning: Conditioning) -> Tensor:
        """Return latents of images, one a sample, and keep what the updates need."""


class GRPO(GroupStep):
    """Flow-GRPO: the policy's probability of the steps that added noise follows the advantage, clipped as in PPO.

    Args:
        random_steps: numbers of the steps that add noise, all of them trained; the others are deterministic.
        noise: amount of that noise: a of Flow-GRPO for flow models, eta of DDIM for others.
        clip_range: of the ratio.
        updates_per_round: optimizer updates, each of equally many prompts.
        kl_weight: factor on the distance from the reference.
    """

    def __init__(
        self,
        model: PlainModel,
        micro_batch_size: int,
        draws: Draws,
        reward: PlainReward,
        rollouts: Rollouts,
        random_steps: Sequence[int],
        noise: float,
        clip_range: float,
        updates_per_round: int,
        kl_weight: float,
    ) -> None:
        super().__init__(model, micro_batch_size, draws, reward, rollouts)
        self.random_steps, self.noise, self.clip_range = random_steps, noise, clip_range
        self.updates_per_round, self.kl_weight = updates_per_round, kl_weight
        self.states: list[Tensor] = []  # before each step and after the last, each of all images
        self.log_probs: dict[int, Tensor] = {}

    def updates(self, samples: Sequence[Sample]) -> Iterator[Iterator[Tensor]]:
        self.states, self.log_probs = [], {}
        conditioning, advantage = self.scored(samples)
        groups = torch.arange(len(samples)) // self.rollouts.group_size
        for update in range(self.updates_per_round):
            rows = (groups % self.updates_per_round == update).nonzero().flatten()
            yield self.losses(rows, conditioning, advantage)

    def sampled(self, samples: Sequence[Sample], conditioning: Conditioning) -> Tensor:
        model, settings = self.model, self.rollouts
        rows, shape = [sample.index for sample in samples], model.adapter.latent_shape
        states, log_probs = [self.draws.noise(rows, shape, "rollout")], {}
        for number in range(settings.num_steps):
            if number not in self.random_steps:
                moved = model.step(
                    model.policy, states[-1], conditioning, settings.num_steps, number, settings.guidance
                )
                states.append(moved)
                continue
            mean, std, _ = self.transition(self.predict("policy", states[-1], number, conditioning), states[-1], number)
            states.append(mean + std * self.draws.noise(rows, shape, f"step{number}"))
            log_probs[number] = log_prob(states[-1], mean, std)
        earlier = self.states or [torch.zeros(0, *shape)] * len(states)
        self.states = [torch.cat(pair) for pair in zip(earlier, states, strict=True)]
        for number, values in log_probs.items():
            self.log_probs[number] = torch.cat([self.log_probs.get(number, torch.zeros(0)), values])
        return states[-1]

    def losses(self, rows: Tensor, conditioning: Conditioning, advantage: Tensor) -> Iterator[Tensor]:
        """Yield the loss of each micro-batch of each trained step."""
        for number in self.random_steps:
            for chunk in rows.split(self.micro_batch_size):
                noisy, following = self.states[number][chunk], self.states[number + 1][chunk]
                texts = conditioning.take(chunk.tolist())
                mean, std, length = self.transition(self.predict("policy", noisy, number, texts), noisy, number)
                ratio = (log_prob(following, mean, std) - self.log_probs[number][chunk]).exp()
                clipped = ratio.clamp(1 - self.clip_range, 1 + self.clip_range)
                loss = torch.maximum(-advantage[chunk] * ratio, -advantage[chunk] * clipped).mean()
                if self.kl_weight > 0:
                    with torch.no_grad():
                        expected = self.predict("reference", noisy, number, texts)
                        ref_mean, _, _ = self.transition(expected, noisy, number)
                    distance = (mean - ref_mean).pow(2).mean(dim=[1, 2, 3]) / (2 * std**2)
                    loss = loss + self.kl_weight * (distance * length).mean()
                yield loss * len(chunk) / len(rows) / len(self.random_steps)

    def predict(
        self, network: Literal["policy", "reference"], noisy: Tensor, number: int, conditioning: Conditioning
    ) -> Tensor:
        """Return the prediction for latents before a step."""
        model, settings = self.model, self.rollouts
        timestep = model.noise_levels(settings.num_steps).timesteps[number]
        return model.predict(getattr(model, network), noisy, timestep, conditioning, settings.guidance)

    def transition(self, prediction: Tensor, noisy: Tensor, number: int) -> tuple[Tensor, float, float]:
        """Return mean and standard deviation of the latents after a step, and its length in tau."""
        level = self.model.noise_levels(self.rollouts.num_steps).level
        (alpha, next_alpha), (sigma, next_sigma) = (
            values[number : number + 2].tolist() for values in (level.alpha, level.sigma)
        )
        length = sigma / (sigma + alpha) - next_sigma / (next_sigma + next_alpha)
        if self.model.is_flow:
            dt = next_sigma - sigma
            diffusion = self.noise**2 * sigma / (1 - (next_sigma if sigma == 1 else sigma))
            mean = noisy * (1 + diffusion * dt / (2 * sigma))
            mean = mean + prediction * (1 + diffusion * (1 - sigma) / (2 * sigma)) * dt
            return mean, math.sqrt(-diffusion * dt), length
        variance = self.noise**2 * (next_sigma / sigma) ** 2 * (1 - (alpha / next_alpha) ** 2)
        latents, predicted_noise = self.model.split(noisy, prediction, alpha, sigma)
        return (
            next_alpha * latents + math.sqrt(next_sigma**2 - variance) * predicted_noise,
            math.sqrt(variance),
            length,
        )


def log_prob(value: Tensor, mean: Tensor, std: float) -> Tensor:
    """Return the log-density of latents, mean over their elements, [B]."""
    density = -(value.detach() - mean).pow(2) / (2 * std**2) - math.log(std) - 0.5 * math.log(2 * math.pi)
    return density.mean(dim=[1, 2, 3])


class NFT(GroupStep):
    """DiffusionNFT: images of the old policy, noised anew, pull the policy towards or push it from what they were.

    Args:
        levels: first and last (excluded) of the sampling levels that are trained.
        num_levels: how many of them an image is trained at in a round.
        beta: how far the positive prediction goes from the old policy's to the policy's.
        kl_weight: factor on the squared distance from the reference's prediction.
        slope, cap: share of the old policy that is kept after k updates: min(slope k, cap).
    """

    def __init__(
        self,
        model: PlainModel,
        micro_batch_size: int,
        draws: Draws,
        reward: PlainReward,
        rollouts: Rollouts,
        levels: tuple[int, int],
        num_levels: int,
        beta: float,
        kl_weight: float,
        slope: float,
        cap: float,
    ) -> None:
        super().__init__(model, micro_batch_size, draws, reward, rollouts)
        self.levels, self.num_levels, self.beta, self.kl_weight = levels, num_levels, beta, kl_weight
        self.slope, self.cap = slope, cap
        self.num_updates = 0
        self.images: list[Tensor] = []

    def updates(self, samples: Sequence[Sample]) -> Iterator[Iterator[Tensor]]:
        self.images = []
        conditioning, advantage = self.scored(samples)
        yield self.losses(samples, torch.cat(self.images), conditioning, advantage)
        self.num_updates += 1
        self.follow(min(self.slope * self.num_updates, self.cap))

    def sampled(self, samples: Sequence[Sample], conditioning: Conditioning) -> Tensor:
        model, num = self.model, self.rollouts.num_steps
        noise = self.draws.noise([sample.index for sample in samples], model.adapter.latent_shape, "rollout")
        self.images.append(model.sample(model.old, noise, conditioning, num, num, self.rollouts.guidance))
        return self.images[-1]

    def losses(
        self, samples: Sequence[Sample], images: Tensor, conditioning: Conditioning, advantage: Tensor
    ) -> Iterator[Tensor]:
        """Yield the loss of each micro-batch at each level."""
        model, indices, clip = self.model, [sample.index for sample in samples], self.rollouts.clip
        first, stop = self.levels
        order = first + self.draws.order(indices, stop - first)[:, : self.num_levels]
        timesteps = model.noise_levels(self.rollouts.num_steps).timesteps[order]
        good = (advantage / (2 * clip) + 0.5).clamp(0, 1)
        for number in range(self.num_levels):
            noise = self.draws.noise(indices, model.adapter.latent_shape, f"noise{number}")
            for rows in torch.arange(len(samples)).split(self.micro_batch_size):
                times, texts = timesteps[rows, number], conditioning.take(rows.tolist())
                alpha, sigma = model.coefficients(times)
                noisy = alpha * images[rows] + sigma * noise[rows]
                target = model.target(images[rows], noise[rows], times)
                with torch.no_grad():
                    old = model.predict(model.old, noisy, times, texts)
                    expected = model.predict(model.reference, noisy, times, texts)
                prediction = model.predict(model.policy, noisy, times, texts)
                positive = self.beta * prediction + (1 - self.beta) * old
                negative = (1 + self.beta) * old - self.beta * prediction
                share = good[rows]
                error = share * adaptive_error(positive, target, sigma)
                error = error + (1 - share) * adaptive_error(negative, target, sigma)
                distance = (prediction - expected).pow(2).mean(dim=[1, 2, 3])
                loss = (clip / self.beta * error + self.kl_weight * distance).mean()
                yield loss * len(rows) / len(samples) / self.num_levels

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """Move the old policy towards the policy."""
        for old, new in zip(self.model.old.parameters(), self.model.policy.parameters(), strict=True):
            old.copy_(decay * old + (1 - decay) * new)


def adaptive_error(prediction: Tensor, target: Tensor, sigma: Tensor) -> Tensor:
    """Return the squared error of the clean image, divided by its own mean absolute size, [B]."""
    error = sigma * (prediction - target)
    with torch.no_grad():
        size = error.double().abs().mean(dim=[1, 2, 3]).clamp(min=1e-5)
    return error.pow(2).mean(dim=[1, 2, 3]) / size.float()
