"""How much better an image is than others of its prompt: rewards made comparable across prompts and rewards.

All functions are pure. N images lie in groups; images of a group share a prompt.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from alignbench.settings.section import Positive, Share

Spread = Literal["round", "group", "none"]
Combination = Literal["sum", "gdpo"]
EPSILON = 1e-4  # added to a standard deviation; released code of Flow-GRPO and DiffusionNFT
MIN_STD = 1e-6  # floor of a standard deviation in GDPO


@dataclass(frozen=True)
class AdvantageSettings:
    """How rewards become advantages.

    Attributes:
        combination: of several rewards. `sum`: their weighted sum is one reward. `gdpo`: each is normalised in its
            group first, so that none dominates by its scale.
        spread: what a `sum` is divided by: the standard deviation of the rewards of the whole round, that of the
            group, or nothing.
        clip: largest absolute advantage, before `scale`; None for no limit.
        scale: factor on advantages.
        min_spread: with `gdpo`, a group whose standard deviation of a reward is below this share of the round's has no
            advantage from that reward: its differences are noise.
    """

    combination: Combination
    spread: Spread
    clip: Positive | None
    scale: Positive
    min_spread: Share

    def of(self, rewards: Tensor, weights: Tensor, groups: Tensor) -> Tensor:
        """Return the advantage of each image of a round, [N], float64.

        Args:
            rewards: one column a reward, [N, K].
            weights: of the rewards, [K].
            groups: number of the group of each image, [N], int64.
        """
        rewards, weights = rewards.double(), weights.double().to(rewards.device)
        if self.combination == "gdpo":
            advantages = gdpo(rewards, weights, groups, self.min_spread)
        else:
            advantages = group_relative(rewards @ weights, groups, self.spread)
        if self.clip is not None:
            advantages = advantages.clamp(-self.clip, self.clip)
        return self.scale * advantages


@dataclass(frozen=True)
class PlainReward:
    """Rewards as they are, for methods that learn what to compare them with.

    Attributes:
        floor: a lower reward counts as this; None for no limit.
    """

    floor: float | None

    def of(self, rewards: Tensor, weights: Tensor, groups: Tensor) -> Tensor:
        """Return the weighted sum of the rewards of each image, [N], float64; arguments as of `AdvantageSettings`."""
        total = rewards.double() @ weights.double().to(rewards.device)
        return total if self.floor is None else total.clamp(min=self.floor)


def group_statistics(values: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and population standard deviation of each entry's group, [N, ...] each."""
    _, which = groups.unique(return_inverse=True)
    count = torch.bincount(which).to(values).reshape(-1, *(1,) * (values.ndim - 1))

    def mean(of: Tensor) -> Tensor:
        total = torch.zeros(len(count), *of.shape[1:], dtype=of.dtype, device=of.device)
        return (total.index_add(0, which, of) / count)[which]

    centre = mean(values)
    return centre, mean((values - centre).square()).sqrt()


def group_relative(rewards: Tensor, groups: Tensor, spread: Spread) -> Tensor:
    """Return rewards minus the mean of their group, divided by a standard deviation, [N]; 0 in a group of equals.

    Source: Shao et al. 2024 (GRPO); Liu et al. 2025 (Flow-GRPO), whose code divides by the deviation of the round.
    """
    mean, std = group_statistics(rewards, groups)
    if spread == "none":
        return rewards - mean
    if spread == "round":
        std = rewards.std(correction=0)
    return (rewards - mean) / (std + EPSILON)


def gdpo(rewards: Tensor, weights: Tensor, groups: Tensor, min_spread: float) -> Tensor:
    """Return the weighted sum of rewards that were each normalised in their group, normalised over the round, [N].

    Args:
        rewards: [N, K].
        min_spread: see `AdvantageSettings`.

    Source: GDPO (arXiv 2601.05242), group-decoupled normalisation. `min_spread` is ours: without it a reward that is
    nearly constant in a group is blown up to the spread of all others.
    """
    mean, std = group_statistics(rewards, groups)
    tells = std >= min_spread * rewards.std(0, correction=0)
    each = torch.where(tells, (rewards - mean) / std.clamp(min=MIN_STD), 0)
    total = each @ weights
    return (total - total.mean()) / total.std(correction=0).clamp(min=MIN_STD)


def flat_groups(rewards: Tensor, groups: Tensor) -> Tensor:
    """Say whether all images of the group of each have the same reward, [N], bool: nothing can be learned there."""
    return group_statistics(rewards, groups)[1] == 0
