"""Stand-ins for the log-likelihood of an image: how well a prediction explains it at one noise level, higher is better.

One draw of noise and level estimates the evidence lower bound of an image, up to a constant. All are means over latent
elements, not sums, so that one setting fits every size of image; `adaptive` and `huber` forms are not likelihoods, and
the exponential of a difference is a ratio of densities only in name.
"""

from typing import Literal, get_args

from torch import Tensor

from alignbench.objectives.denoising_error import sample_error

LikelihoodKind = Literal["uniform", "sigma", "sigma2", "adaptive", "ghuber", "huber", "exact"]
SMALLEST_ERROR = 1e-5  # floor of the mean absolute error in `adaptive`
SMOOTHING = 1e-10  # added to a mean squared error under a root


def elbo(prediction: Tensor, target: Tensor, sigma: Tensor, kind: LikelihoodKind, power: float = 0.25) -> Tensor:
    """Return the stand-in for the log-likelihood of each image, [B]; 0 where the prediction is exact, else below.

    Args:
        prediction, target: [B, C, h, w]; velocities of a flow model, or noise. For velocities sigma times their
            difference is the error of the latents that the prediction implies; for noise the same weighting is kept.
        sigma: share of noise at the level of each image, [B].
        kind: `uniform` is minus the mean squared error; `sigma` and `sigma2` multiply it by sigma and its square;
            `adaptive` is minus the squared error of the latents divided by its own absolute size; `ghuber` and `huber`
            are sigma times a power and a root of the squared error; `exact` has the weight (1 - sigma) / sigma.
        power: of `ghuber`; 1 is `sigma`.

    Source: `adaptive`: DiffusionNFT and rethinking-diffusion-rl; all others: advantage weighted matching (AWM).
    """
    if kind == "adaptive":
        return -adaptive_error(prediction, target, sigma)
    error = sample_error(prediction, target)
    sigma = sigma.to(error)
    if kind == "uniform":
        return -error
    if kind == "sigma":
        return -sigma * error
    if kind == "sigma2":
        return -sigma.square() * error
    if kind == "ghuber":
        return -sigma / power * ((error + SMOOTHING) ** power - SMOOTHING**power)
    if kind == "huber":
        return -sigma * ((error + SMOOTHING).sqrt() - SMOOTHING**0.5)
    if kind == "exact":
        return -(1 - sigma) / (sigma + 1e-3) * error
    raise ValueError(f"likelihood={kind} is unknown; available: {', '.join(get_args(LikelihoodKind))}")


def adaptive_error(prediction: Tensor, target: Tensor, sigma: Tensor) -> Tensor:
    """Return the squared error of the latents divided by its mean absolute size, [B]: as large as an absolute error.

    Args: as of `elbo`. The divisor has no gradient.

    Source: DiffusionNFT, train_nft_sd3.py.
    """
    difference = prediction - target
    error = sigma.to(difference).reshape(-1, *(1,) * (difference.ndim - 1)) * difference
    size = error.detach().double().abs().flatten(1).mean(1).clamp(min=SMALLEST_ERROR)
    return error.square().flatten(1).mean(1) / size.to(error)
