"""DGPO: a preference loss between the good and the bad half of each prompt's images.

Paper: Luo et al. 2025, "Reinforcing Diffusion Models by Direct Group Preference Optimization", arXiv 2510.08425.
Reference code: Luo-Yihong/DGPO, scripts/train_sd3_dgpo.py; it has no licence, so this is written from the mathematics.

Deviations: the weight of a group is computed in a pass of its own before the update, so that a group may lie in several
micro-batches (there they must hold whole groups); groups are told by number, where a prompt drawn twice in a round
would make one of twice the size; the rollout is by the policy throughout, and the reference has no guidance (mode 1 of
the code); noise-predicting models are ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from alignbench.method import WeightCopies
from alignbench.models.adapter import ModelAdapter
from alignbench.objectives.denoising_error import sample_error
from alignbench.online.forward_process import ForwardProcess, Predictions, RewardedBatch
from alignbench.settings.section import Positive


def group_weight(
    error: Tensor, ref_error: Tensor, advantage: Tensor, groups: Tensor, beta: float, group_size: int
) -> Tensor:
    """Return sigmoid(beta / K * sum of A (error - ref_error)) of the group of each row, [B]: how undecided it is.

    Args:
        error, ref_error: of policy and reference on the same noise and level, [B].
        advantage: [B]; its sum over a group is 0 but for clipping.
        groups: number of the group of each row, [B].
        group_size: K.

    Source: arXiv 2510.08425. With K = 2 and advantages of 1 and -1 it is the weight of Diffusion-DPO.
    """
    _, which = groups.unique(return_inverse=True)
    gain = advantage * (error - ref_error)
    total = torch.zeros(int(which.max()) + 1, dtype=gain.dtype, device=gain.device).index_add(0, which, gain)
    return torch.sigmoid(beta / group_size * total)[which]


def dgpo_loss(error: Tensor, old_error: Tensor, advantage: Tensor, weight: Tensor, clip_range: float) -> Tensor:
    """Return the loss of each image, [B]: weight times advantage times error.

    Args:
        error: of the policy, [B], with a gradient.
        old_error: of the old policy. An image whose error has changed by more than `clip_range` (as a ratio) in the
            direction it is pushed has no gradient any more.
        weight: of its group, without a gradient.
    """
    ratio = (old_error - error).detach().exp()
    done = torch.where(advantage > 0, ratio > 1 + clip_range, ratio < 1 - clip_range)
    return weight * advantage * torch.where(done, error.detach(), error)


@dataclass(eq=False, kw_only=True)
class DGPO(ForwardProcess):
    """DGPO.

    Attributes:
        beta: steepness of the group's weight.
        clip_range: see `dgpo_loss`.
    """

    beta: Positive
    clip_range: Positive

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lag is None or self.kl_weight == 0:
            raise ValueError("method=dgpo compares with an old policy and a reference: method.lag must be set, and "
                             "method.kl_weight above 0")  # fmt: skip
        if not (self.share_noise and self.levels.shared):
            raise ValueError("method=dgpo compares images on the same noise and level: method.share_noise and "
                             "method.levels.shared must be true")  # fmt: skip

    @classmethod
    def weight_copies(cls, settings: Mapping[str, Any]) -> WeightCopies:
        return WeightCopies(reference=True, old=True)

    def group_weights(self, batches: Sequence[RewardedBatch], model: ModelAdapter) -> list[RewardedBatch]:
        predictions = [self.predictions(model, batch) for batch in batches]
        errors = torch.cat([sample_error(p.policy, p.target) for p in predictions])
        ref_errors = torch.cat([sample_error(cast(Tensor, p.expected), p.target) for p in predictions])
        timesteps = torch.cat([batch.timesteps for batch in batches])
        groups = torch.cat([batch.index for batch in batches]).to(errors.device) // self.group_size
        _, level = timesteps.unique(return_inverse=True)
        keys = groups * (int(level.max()) + 1) + level
        advantage = torch.cat([batch.advantage for batch in batches])
        weights = group_weight(errors, ref_errors, advantage, keys, self.beta, self.group_size)
        parts = weights.split([len(batch) for batch in batches])
        return [replace(batch, group_weight=part) for batch, part in zip(batches, parts, strict=True)]

    def objective(self, predictions: Predictions) -> Tensor:
        p = predictions
        assert p.group_weight is not None
        error, old_error = sample_error(p.policy, p.target), sample_error(p.old, p.target)
        return dgpo_loss(error, old_error, p.advantage, p.group_weight, self.clip_range)
