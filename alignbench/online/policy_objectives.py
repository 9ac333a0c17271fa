"""What policy gradients minimise, as functions of a log-ratio of probabilities and an advantage.

The ratio is that of the policy to the one that made the image; where both are the same it is 1, and each of these has
the gradient of minus advantage times log-probability.
"""

import torch
from torch import Tensor


def surrogate_loss(log_ratio: Tensor, advantage: Tensor) -> Tensor:
    """Return minus ratio times advantage, [B]: the policy-gradient objective, corrected for an older policy."""
    return -advantage * log_ratio.exp()


def ppo_loss(log_ratio: Tensor, advantage: Tensor, clip_range: float) -> Tensor:
    """Return the clipped surrogate, [B]: no gradient to move the ratio further than `clip_range` away from 1.

    Source: Schulman et al. 2017 (PPO), as a loss: the larger of the plain and the clipped one.
    """
    ratio = log_ratio.exp()
    return torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - clip_range, 1 + clip_range))


def is_clipped(log_ratio: Tensor, advantage: Tensor, clip_range: float) -> Tensor:
    """Say where `ppo_loss` has no gradient, [B], bool."""
    ratio = log_ratio.detach().exp()
    return torch.where(advantage > 0, ratio > 1 + clip_range, (advantage < 0) & (ratio < 1 - clip_range))
