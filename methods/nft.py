"""DiffusionNFT: pull the policy towards its good images and push it from its bad ones, both seen from the old policy.

Paper: Zheng et al. 2025, "DiffusionNFT: Online Diffusion Reinforcement with Forward Process", arXiv 2509.16117.
Reference code: NVlabs/DiffusionNFT, scripts/train_nft_sd3.py, config/nft.py.

Deviations: groups are told by number, not by their decoded text; draws are keyed by sample, so a resumed run goes on
where it was; the model's own sampler rolls out, where the code has DPM-Solver++. Models that predict noise are ours:
the same formulas with noise in place of velocity, errors weighted by sigma.
"""

from dataclasses import dataclass

from torch import Tensor

from alignbench.online.forward_process import ForwardProcess, Predictions
from alignbench.online.likelihood import adaptive_error
from alignbench.settings.section import Positive


def nft_loss(
    prediction: Tensor, old: Tensor, target: Tensor, sigma: Tensor, advantage: Tensor, beta: float, clip: float
) -> Tensor:
    """Return the DiffusionNFT loss of each image, [B].

    The advantage becomes the probability that an image is good. Two predictions lie on either side of the old policy's:
    the positive one towards the policy, the negative one away from it. Each explains the image, with the probability
    that it is good and bad. Where the policy is the old policy, the gradient is that of minus advantage times
    likelihood, whatever `beta` is.

    Args:
        prediction, old: of policy and old policy, [B, C, h, w]; the old one without a gradient.
        target: what a perfect network predicts.
        sigma: share of noise, [B].
        advantage: [B].
        beta: how far the positive prediction goes from the old policy's to the policy's; a smaller one moves further.
        clip: advantage at which an image is certainly good.

    Source: arXiv 2509.16117, eq. of the final objective, with the weights and the factor clip / beta of the code.
    """
    good = (advantage / (2 * clip) + 0.5).clamp(0, 1)
    positive = beta * prediction + (1 - beta) * old
    negative = (1 + beta) * old - beta * prediction
    error = good * adaptive_error(positive, target, sigma) + (1 - good) * adaptive_error(negative, target, sigma)
    return clip / beta * error


@dataclass(eq=False, kw_only=True)
class NFT(ForwardProcess):
    """DiffusionNFT.

    Attributes:
        beta: see `nft_loss`.
    """

    beta: Positive

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lag is None or self.advantage.clip is None:
            raise ValueError("method=nft needs method.lag and method.advantage.clip")

    def objective(self, predictions: Predictions) -> Tensor:
        assert self.advantage.clip is not None
        clip = self.advantage.clip * self.advantage.scale
        p = predictions
        return nft_loss(p.policy, p.old, p.target, p.sigma, p.advantage, self.beta, clip)
