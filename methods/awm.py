"""Advantage weighted matching: flow matching on the policy's own images, towards good ones and away from bad ones.

Paper: Xue et al. 2025, "Advantage Weighted Matching", arXiv 2509.25050. Reference code:
scxue/advantage_weighted_matching, scripts/train_sd3_awm.py.

Deviations: levels are drawn for each image, not for each micro-batch, which would make results depend on its size; no
round is skipped (the code skips two whose groups its loader breaks); the sampler is the model's own, where the code has
SA-Solver; noise-predicting models are ours.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from alignbench.objectives.denoising_error import sample_error
from alignbench.online.forward_process import ForwardProcess, Predictions
from alignbench.online.likelihood import LikelihoodKind, elbo
from alignbench.online.policy_objectives import ppo_loss
from alignbench.settings.section import NotNegative, Positive

RatioTo = Literal["policy", "old"]


def awm_loss(likelihood: Tensor, old_likelihood: Tensor, advantage: Tensor, clip_range: float) -> Tensor:
    """Return the clipped surrogate of a stand-in for the log-likelihood, [B].

    Args:
        likelihood: of each image, [B], as by `elbo`, with a gradient.
        old_likelihood: that of the policy which the ratio is taken to, on the same noise and level.
        clip_range: the ratio has no gradient beyond 1 plus or minus it; 1 clips next to nothing.

    Source: arXiv 2509.25050; the ratio of one level of train_sd3_awm.py (`exp_first`).
    """
    return ppo_loss(likelihood - old_likelihood.detach(), advantage, clip_range)


@dataclass(eq=False, kw_only=True)
class AWM(ForwardProcess):
    """Advantage weighted matching.

    Attributes:
        likelihood, power: see `elbo`.
        ratio_to: the policy itself, whose ratio is 1 in value, or the old policy.
        clip_range: see `awm_loss`.
        lag_kl_weight: factor on the squared distance of the prediction from the old policy's.
    """

    likelihood: LikelihoodKind
    power: Positive
    ratio_to: RatioTo
    clip_range: Positive
    lag_kl_weight: NotNegative

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lag is None and (self.ratio_to == "old" or self.lag_kl_weight > 0):
            raise ValueError("method.ratio_to=old and method.lag_kl_weight need method.lag; set them to policy and 0")

    def objective(self, predictions: Predictions) -> Tensor:
        p = predictions
        likelihood = elbo(p.policy, p.target, p.sigma, self.likelihood, self.power)
        old = elbo(p.old, p.target, p.sigma, self.likelihood, self.power) if self.ratio_to == "old" else likelihood
        values = awm_loss(likelihood, old, p.advantage, self.clip_range)
        if self.lag_kl_weight > 0:
            values = values + self.lag_kl_weight * sample_error(p.policy, p.old)
        return values
