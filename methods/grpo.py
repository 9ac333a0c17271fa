"""GRPO on the steps of a sampling: Flow-GRPO, and what others made of it.

Papers: Liu et al. 2025, "Flow-GRPO", arXiv 2505.05470; the presets: Xue et al. 2025, "DanceGRPO", arXiv 2505.07818;
Li et al. 2025, "MixGRPO", arXiv 2507.21802; Wang et al. 2025, "GRPO-Guard", arXiv 2510.22319; "Flow-DPPO", arXiv
2606.11025. Reference code: yifan123/flow_grpo, scripts/train_sd3.py; XueZeyue/DanceGRPO, fastvideo/train_grpo_flux.py;
Tencent-Hunyuan/MixGRPO; verl-omni for GRPO-Guard; Tencent-Hunyuan/UniRL for Flow-DPPO.

Deviations from Flow-GRPO: the last step adds no noise (there it does, and is not trained); images of prompts whose
rewards are all equal are kept, with an advantage of 0; all images of an update belong to whole groups; groups are told
by number; latents are float32. Noise-predicting models are ours. docs/methods/grpo.md lists those of the presets.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from alignbench.online.path_policy import PathPolicy, StepComparison
from alignbench.online.policy_objectives import (
    centred_log_ratio,
    divergence_gated_loss,
    is_clipped,
    is_too_far,
    ppo_loss,
)
from alignbench.settings.section import Positive

Gate = Literal["ratio", "centred_ratio", "divergence"]


def grpo_loss(steps: StepComparison, gate: Gate, limit: float) -> tuple[Tensor, Tensor]:
    """Return the loss of each step, and whether it has no gradient because the policy has moved far enough, [B] each.

    Args:
        gate: what limits how far an update goes. `ratio`: PPO's clipping of the ratio of probabilities.
            `centred_ratio`: the same for a ratio that is 1 on average; every step then moves the prediction alike.
            `divergence`: a limit on the divergence of the step.
        limit: for the ratios, how far from 1 they may go; else the divergence.

    Source: `ratio`: Flow-GRPO. `centred_ratio`: GRPO-Guard, whose code divides by the length of the step
    where we divide by the sensitivity of its mean; for its sampler the two differ by a constant but for the first step.
    `divergence`: Flow-DPPO.
    """
    if gate == "divergence":
        far = is_too_far(steps.log_ratio, steps.advantage, steps.divergence, limit)
        return divergence_gated_loss(steps.log_ratio, steps.advantage, steps.divergence, limit), far
    if gate == "ratio":
        return ppo_loss(steps.log_ratio, steps.advantage, limit), is_clipped(steps.log_ratio, steps.advantage, limit)
    log_ratio = centred_log_ratio(steps.log_ratio, steps.divergence, steps.std)
    values = ppo_loss(log_ratio, steps.advantage, limit) / steps.sensitivity
    return values, is_clipped(log_ratio, steps.advantage, limit)


@dataclass(eq=False, kw_only=True)
class GRPO(PathPolicy):
    """Flow-GRPO and its relatives.

    Attributes:
        gate, limit: see `grpo_loss`.
    """

    gate: Gate
    limit: Positive

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gate != "ratio" and self.log_prob_scale == "unscaled":
            raise ValueError(
                f"method.gate={self.gate} needs method.log_prob_scale=gaussian: it compares log-ratio and divergence"
            )

    def objective(self, steps: StepComparison) -> tuple[Tensor, Tensor]:
        return grpo_loss(steps, self.gate, self.limit)
