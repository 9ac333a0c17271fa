"""DPOK: policy gradients on sampling steps with a learned baseline, held near the pretrained model.

Paper: Fan et al. 2023, "DPOK: Reinforcement Learning for Fine-tuning Text-to-Image Diffusion Models", arXiv 2305.16381.
Reference code: google-research/google-research, dpok/train_online_pg.py.

Deviations: there is no replay buffer, so every update is made of the images of its round. The baseline is trained in
the same updates by the same optimizer, and reads latents and prompt averaged down to a fixed size, so that it fits
every model; it begins at the mean reward of the first round. The last step adds no noise and is not trained. Flow
models are ours: the steps of Flow-GRPO, and tau in place of the timestep.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignbench.batch import PromptBatch
from alignbench.context import Context
from alignbench.method import Loss
from alignbench.models.adapter import ModelAdapter
from alignbench.online.advantages import PlainReward
from alignbench.online.online_method import RolledOut
from alignbench.online.path_policy import PathPolicy, StepComparison
from alignbench.online.path_sampling import StepBatch
from alignbench.online.policy_objectives import clamped_loss
from alignbench.settings.section import Count, NotNegative, Positive


class ValueNetwork(nn.Module):
    """Predicts how much the image that a sampling will lead to scores above or below the mean.

    Args:
        num_features: numbers that the latents, and as many that the prompt, are averaged down to.
        width: of its two hidden layers.
    """

    def __init__(self, num_features: Count, width: Count) -> None:
        super().__init__()
        self.num_features = num_features
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # all processes begin alike
            first, second, last = nn.Linear(2 * num_features + 1, width), nn.Linear(width, width), nn.Linear(width, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)

    def forward(self, noisy_latents: Tensor, tau: Tensor, prompt_embeds: Tensor) -> Tensor:
        """Return the expected difference, [B], float32; 0 before training.

        Args:
            noisy_latents: [B, C, h, w].
            tau: noise level, 0..1, [B].
            prompt_embeds: text features, [B, tokens, width].
        """
        with torch.autocast(noisy_latents.device.type, enabled=False):
            latents, prompt = (
                F.adaptive_avg_pool1d(rows.float()[:, None], self.num_features)[:, 0]
                for rows in (noisy_latents.flatten(1), prompt_embeds.mean(1))
            )
            return self.layers(torch.cat([latents, prompt, tau.float()[:, None]], dim=1))[:, 0]


@dataclass(eq=False, kw_only=True)
class DPOK(PathPolicy):
    """DPOK.

    Attributes:
        advantage: makes the reward of an image, from which the baseline is subtracted at each step.
        reward_weight: factor on the advantage.
        clip_range: the ratio of probabilities has no gradient beyond 1 plus or minus it.
        value_network: the baseline.
        value_weight: factor on the squared error of the baseline.
    """

    smallest_group = 1

    advantage: PlainReward  # pyright: ignore[reportIncompatibleVariableOverride]
    reward_weight: Positive
    clip_range: Positive
    value_network: ValueNetwork
    value_weight: NotNegative
    mean_reward: float = field(default=0.0, init=False)  # of the first round, which the baseline begins at

    def trainable_modules(self) -> dict[str, nn.Module]:
        return {"value": self.value_network}

    def compared(
        self, model: ModelAdapter, batch: PromptBatch, latents: Tensor, scores: Tensor, context: Context
    ) -> RolledOut:
        images = super().compared(model, batch, latents, scores, context)
        if context.step == 0:
            rewards = images.advantage
            self.mean_reward = float(context.reduce(rewards.sum(), torch.ones_like(rewards).sum()))
        return images

    def objective(self, steps: StepComparison) -> tuple[Tensor, Tensor]:
        stopped = (steps.log_ratio.detach().exp() - 1).abs() > self.clip_range
        return clamped_loss(steps.log_ratio, self.reward_weight * steps.advantage, self.clip_range), stopped

    def loss(self, model: ModelAdapter, batch: StepBatch, context: Context) -> Loss:
        reward, tau = batch.advantage, self.levels(model, batch)[0].tau.to(batch.noisy_latents.device)
        value = self.mean_reward + self.value_network(batch.noisy_latents, tau, batch.conditioning.prompt_embeds)
        loss = super().loss(model, replace(batch, advantage=reward - value.detach()), context)
        error = (value - reward).square()
        metrics = {"value": value.detach(), "value_error": error.detach()}
        return replace(loss, values=loss.values + self.value_weight * error, metrics=loss.metrics | metrics)

    def state_dict(self) -> dict[str, Any]:
        return {"mean_reward": self.mean_reward}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mean_reward = state["mean_reward"]
