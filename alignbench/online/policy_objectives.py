"""What methods minimise that know the log-probability of a sampling step.

Policy gradients are functions of a log-ratio of probabilities and an advantage. The ratio is that of the policy to the
one that made the image; where both are the same it is 1, and each of these has the gradient of minus advantage times
log-probability. The preference loss compares the ratios, of policy to reference, of a better and a worse step.
"""

import math

import torch
import torch.nn.functional as F
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


def clamped_loss(log_ratio: Tensor, advantage: Tensor, clip_range: float) -> Tensor:
    """Return the surrogate with a ratio that is kept within `clip_range` of 1, [B].

    Beyond it there is no gradient, not even one that would bring the ratio back, unlike in `ppo_loss`.

    Source: the released code of DPOK, train_online_pg.py.
    """
    return -advantage * log_ratio.exp().clamp(1 - clip_range, 1 + clip_range)


def divergence_gated_loss(log_ratio: Tensor, advantage: Tensor, divergence: Tensor, limit: float) -> Tensor:
    """Return the surrogate, [B]; 0 where the policy is `limit` away from the old one and would go further.

    Args:
        divergence: Kullback-Leibler divergence of policy and old policy, [B], >= 0.

    Source: Flow-DPPO (arXiv 2606.11025), UniRL, unirl/algorithms/flowdppo.py.
    """
    return surrogate_loss(log_ratio, advantage).where(~is_too_far(log_ratio, advantage, divergence, limit), 0)


def is_too_far(log_ratio: Tensor, advantage: Tensor, divergence: Tensor, limit: float) -> Tensor:
    """Say where `divergence_gated_loss` has no gradient, [B], bool."""
    ratio = log_ratio.detach().exp()
    away = torch.where(advantage > 0, ratio > 1, (advantage < 0) & (ratio < 1))
    return away & (divergence.detach() >= limit)


def centred_log_ratio(log_ratio: Tensor, divergence: Tensor, std: Tensor) -> Tensor:
    """Return a log-ratio of sampling steps that is 0 on average, [B], in units that are the same at all noise levels.

    The log-ratio of two Gaussians is minus their divergence on average over what the old policy draws, so that a ratio
    would be clipped on one side more than on the other. What is returned is the mean of z (mean - old mean) over the
    elements of the latents, z being the noise that was drawn.

    Args:
        log_ratio, divergence: both averaged over the elements, [B].
        std: standard deviation of the steps, [B].

    Source: Wang et al. 2025 (GRPO-Guard), the ratio normalisation.
    """
    return (log_ratio + divergence) * std


def clamped_preference_loss(log_ratio_w: Tensor, log_ratio_l: Tensor, beta: float, clip_range: float) -> Tensor:
    """Return the preference loss of a step of each pair, [B]: log 2 when policy and reference agree.

    Args:
        log_ratio_w, log_ratio_l: log-probability of the step by the policy minus that by the reference, of winner and
            loser, [B].
        beta: steepness.
        clip_range: the ratio of probabilities has no gradient beyond 1 plus or minus it.

    Source: D3PO (arXiv 2311.13231) and SPO (arXiv 2406.04314), with the clamped ratios of their codes.
    """
    low, high = math.log(1 - clip_range), math.log(1 + clip_range)
    margin = log_ratio_w.clamp(low, high) - log_ratio_l.clamp(low, high)
    return F.softplus(-beta * margin)
