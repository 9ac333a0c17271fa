"""Plain steps that differentiate a reward: SRPO, ReFL and DRaFT-K.

Sources: arXiv 2509.06942 (SRPO), 2304.05977 (ReFL), 2309.17400 (DRaFT), and what the first two's training scripts do.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from alignbench.batch import Conditioning
from benchmarks.reference_steps.model import Draws, PlainModel, Sample
from benchmarks.reference_steps.rewards import PlainReward
from benchmarks.reference_steps.step import PlainStep, SingleUpdateStep


class SRPO(PlainStep):
    """SRPO: a rollout of each prompt from one noise, then a denoising and an inverting recovery of its image.

    Args:
        features: text features of every prompt, which the script reads from files made before.
        num_rollout_steps, guidance: of the rollout.
        window: tau at the noisy and at the clean end of the trained levels.
        num_levels, longest, edge: parts of the window, most parts that a recovery spans, and the levels at either end
            that are not drawn.
        discount_denoise, discount_inversion: at the clean and at the noisy end.
        margin: above which rewards are not pushed.
        positive_words, negative_words: one of each an update, in turn.
        template: how a word and a prompt are joined.
    """

    def __init__(
        self,
        model: PlainModel,
        micro_batch_size: int,
        draws: Draws,
        reward: PlainReward,
        features: Mapping[str, Conditioning],
        num_rollout_steps: int,
        guidance: float | None,
        window: tuple[float, float],
        num_levels: int,
        longest: int,
        edge: int,
        discount_denoise: Sequence[float],
        discount_inversion: Sequence[float],
        margin: float,
        positive_words: Sequence[str],
        negative_words: Sequence[str],
        template: str,
    ) -> None:
        super().__init__(model, micro_batch_size, draws)
        self.reward, self.features = reward, features
        self.num_rollout_steps, self.guidance = num_rollout_steps, guidance
        self.window, self.num_levels, self.longest, self.edge = window, num_levels, longest, edge
        self.discounts = {1: discount_denoise, -1: discount_inversion}
        self.margin, self.template = margin, template
        self.words = positive_words, negative_words
        self.num_updates = 0

    def updates(self, samples: Sequence[Sample]) -> Iterator[Iterator[Tensor]]:
        yield self.losses(samples)
        self.num_updates += 1

    def losses(self, samples: Sequence[Sample]) -> Iterator[Tensor]:
        """Yield the loss of each recovery of each micro-batch."""
        model, num = self.model, self.num_rollout_steps
        shared = self.draws.shared_noise(model.adapter.latent_shape, "rollout")
        for chunk in self.split(samples):
            conditioning = Conditioning.cat([self.features[sample.prompt] for sample in chunk])
            noise = shared.expand(len(chunk), *shared.shape)
            latents = model.sample(model.policy, noise, conditioning, num, num, self.guidance)
            uniform = self.draws.uniform([sample.index for sample in chunk], "level0")
            landing = self.edge + (uniform * (self.num_levels - 2 * self.edge + 1)).floor()
            length = torch.minimum(landing, self.num_levels - landing).clamp(max=self.longest)
            for direction in (1, -1):
                reward = self.recovered_reward(chunk, conditioning, latents, noise, landing, length, direction)
                yield F.relu(self.margin - reward).mean() / 2 * len(chunk) / len(samples)

    def recovered_reward(
        self,
        samples: Sequence[Sample],
        conditioning: Conditioning,
        latents: Tensor,
        noise: Tensor,
        landing: Tensor,
        length: Tensor,
        direction: int,
    ) -> Tensor:
        """Return the relative reward of images recovered in one direction, [B]: 1 denoises, -1 inverts."""
        model = self.model
        start, end = self.timesteps(landing + direction * length), self.timesteps(landing)
        alpha, sigma = model.coefficients(start)
        next_alpha, next_sigma = model.coefficients(end)
        noisy = alpha * latents + sigma * noise
        prediction = model.predict(model.policy, noisy, start, conditioning)
        clean, predicted_noise = model.split(noisy, prediction, alpha, sigma)
        stepped = next_alpha * clean + next_sigma * predicted_noise
        pixels = model.decode((stepped - next_sigma * noise) / next_alpha)
        image = self.reward.reward.embedding_scale * self.reward.image(pixels)
        plus, minus = ((image * self.reward.text(self.captions(samples, words))).sum(-1) for words in self.words)
        clean_end, noisy_end = self.discounts[direction]
        position = landing if direction == 1 else landing - length
        discount = (clean_end + (noisy_end - clean_end) * position / self.num_levels).float()
        return (1 + discount) * plus - minus if direction == 1 else (1 + discount) * minus - plus

    def timesteps(self, position: Tensor) -> Tensor:
        """Return the timesteps of parts of the window."""
        noisy, clean = self.window
        return self.model.adapter.schedule.timesteps_at(clean + (noisy - clean) * position / self.num_levels)

    def captions(self, samples: Sequence[Sample], words: Sequence[str]) -> list[str]:
        """Return the prompts under the word whose turn it is."""
        word = words[self.num_updates % len(words)]
        return [self.template.format(word=word, prompt=sample.prompt) for sample in samples]


class ReFL(SingleUpdateStep):
    """ReFL: sample to a random late step, and differentiate the reward of the clean image guessed there.

    Args:
        earliest: share of the sampling steps before the earliest that is drawn.
        weight, margin: of the reward's loss; a margin of None pushes every image.
    """

    def __init__(
        self,
        model: PlainModel,
        micro_batch_size: int,
        draws: Draws,
        reward: PlainReward,
        num_rollout_steps: int,
        guidance: float | None,
        earliest: float,
        weight: float,
        margin: float | None,
    ) -> None:
        super().__init__(model, micro_batch_size, draws)
        self.reward, self.num_rollout_steps, self.guidance = reward, num_rollout_steps, guidance
        self.earliest, self.weight, self.margin = earliest, weight, margin

    def loss(self, samples: Sequence[Sample]) -> Tensor:
        model, rows, num = self.model, [sample.index for sample in samples], self.num_rollout_steps
        prompts = [sample.prompt for sample in samples]
        conditioning = model.encode_prompts(prompts)
        first = round(self.earliest * num)
        stop = first + int(self.draws.uniform(rows, "stop")[0] * (num - first))  # one for the micro-batch
        noise = self.draws.noise(rows, model.adapter.latent_shape, "rollout")
        noisy = model.sample(model.policy, noise, conditioning, num, stop, self.guidance)
        levels = model.noise_levels(num)
        alpha, sigma = levels.level.alpha[stop].float(), levels.level.sigma[stop].float()
        prediction = model.predict(model.policy, noisy, levels.timesteps[stop], conditioning, self.guidance)
        clean, _ = model.split(noisy, prediction, alpha, sigma)
        reward = self.reward.score(model.decode(clean), prompts)
        return self.weight * (-reward if self.margin is None else F.relu(self.margin - reward)).mean()


class DRaFT(SingleUpdateStep):
    """DRaFT-K: differentiate the reward of a sampled image through the last K sampling steps."""

    def __init__(
        self,
        model: PlainModel,
        micro_batch_size: int,
        draws: Draws,
        reward: PlainReward,
        num_rollout_steps: int,
        guidance: float | None,
        num_grad_steps: int,
    ) -> None:
        super().__init__(model, micro_batch_size, draws)
        self.reward, self.num_rollout_steps, self.guidance = reward, num_rollout_steps, guidance
        self.num_grad_steps = num_grad_steps

    def loss(self, samples: Sequence[Sample]) -> Tensor:
        model, rows, num = self.model, [sample.index for sample in samples], self.num_rollout_steps
        prompts = [sample.prompt for sample in samples]
        conditioning = model.encode_prompts(prompts)
        noise = self.draws.noise(rows, model.adapter.latent_shape, "rollout")
        latents = model.sample(model.policy, noise, conditioning, num, num - self.num_grad_steps, self.guidance)
        for number in range(num - self.num_grad_steps, num):
            latents = model.step(model.policy, latents, conditioning, num, number, self.guidance)
        return -self.reward.score(model.decode(latents), prompts).mean()
