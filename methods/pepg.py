"""PEPG: move the log-likelihood ratio of each image to its advantage, by policy gradients on an evidence lower bound.

Paper: Choi et al., "Rethinking diffusion reinforcement learning". Reference code: jaemoo-choi/rethinking-diffusion-rl,
src/utils/base.py and its launch scripts for SD 3.5 medium.

`epg` is the plain policy gradient. `par` is the regression of the log-ratio to the advantage, whose gradient is exactly
that of `pepg`; that the paper's tables differ between the two shows how far two runs of one method lie apart.

Deviations: groups are told by number; any deterministic sampler rolls out; noise-predicting models are ours.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from alignbench.online.forward_process import ForwardProcess, Predictions
from alignbench.online.likelihood import LikelihoodKind, elbo
from alignbench.settings.section import Positive

Variant = Literal["pepg", "epg", "par"]


def pepg_loss(
    likelihood: Tensor, old_likelihood: Tensor, advantage: Tensor, variant: Variant, importance: bool
) -> Tensor:
    """Return the loss of each image, [B].

    With D the difference of the two likelihoods and d its value: `epg` is -A l, `pepg` -(A - d) l, which stops where
    the ratio explains the advantage, and `par` (A - D)^2 / 2. The gradients of the last two are the same.

    Args:
        likelihood, old_likelihood: of the images by policy and old policy, [B]; see `elbo`.
        importance: whether to multiply by the ratio exp(d).

    Source: the objectives of src/utils/base.py.
    """
    difference = likelihood - old_likelihood.detach()
    fixed = difference.detach()
    weight = fixed.exp() if importance else torch.ones_like(fixed)
    if variant == "par":
        return weight * (advantage - difference).square() / 2
    push = advantage if variant == "epg" else advantage - fixed
    return -weight * push * likelihood


@dataclass(eq=False, kw_only=True)
class PEPG(ForwardProcess):
    """PEPG, EPG and PAR.

    Attributes:
        variant, importance: see `pepg_loss`.
        likelihood, power: see `elbo`.
    """

    variant: Variant
    importance: bool
    likelihood: LikelihoodKind
    power: Positive

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lag is None:
            raise ValueError("method=pepg compares the policy with an older one and needs method.lag")

    def objective(self, predictions: Predictions) -> Tensor:
        p = predictions
        likelihood, old = (elbo(one, p.target, p.sigma, self.likelihood, self.power) for one in (p.policy, p.old))
        return pepg_loss(likelihood, old, p.advantage, self.variant, self.importance)
