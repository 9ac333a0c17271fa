"""MaPO: raise the likelihood of the preferred image and its lead over the other one, without any reference.

Paper: Hong et al. 2024, arXiv 2406.06424. Reference code: mapo-t2i/mapo, utils.py and train.py.

Deviations: the link is computed without cancellation (there exp(a) - 1 in float32 makes the logit noise of 0.1 at an
error of 1e-3 and NaN at 0); models other than SDXL, flow models included, where the timesteps follow the family and the
number of training timesteps in the margin is a plain constant; images are not flipped unless asked for.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from alignbench.batch import PairBatch
from alignbench.context import Context
from alignbench.method import Loss, Method
from alignbench.models.adapter import ModelAdapter
from alignbench.objectives.denoising_error import ErrorWeighting, check_weighting, noise_pairs, sample_error
from alignbench.settings.section import NotNegative, Positive, Share

SERIES_BELOW = 1e-2  # the series is then exact to 2e-11, and the quotient keeps five digits of its slope in float32


def link(error: Tensor, snr_value: float) -> Tensor:
    """Return phi = a / (exp(a) - 1) with a = snr_value * error: 1 without error, falling towards 0.

    Source: Hong et al. 2024 (MaPO), link of likelihoods; utils.py of mapo-t2i/mapo.
    """
    a = snr_value * error
    small = a.abs() < SERIES_BELOW
    ordinary = torch.where(small, 1.0, a)  # a value that has a slope, where the quotient is not used
    quotient = ordinary * torch.exp(-ordinary) / -torch.expm1(-ordinary)
    return torch.where(small, 1 - a / 2 + a.square() / 12, quotient)


def mapo_margin(error_w: Tensor, error_l: Tensor, snr_value: float, margin_scale: float) -> Tensor:
    """Return the logit of preferring the winner, [B]; about margin_scale * snr_value / 2 * (error_l - error_w).

    Args:
        error_w, error_l: policy error on winner and loser, [B], float32, >= 0.
        snr_value: steepness of the link.
        margin_scale: what the difference of links is multiplied by.
    """
    return margin_scale * (link(error_w, snr_value) - link(error_l, snr_value))


def mapo_loss(error_w: Tensor, margin: Tensor, beta: float, likelihood_weight: float) -> Tensor:
    """Return the MaPO loss of each pair, [B].

    Args:
        error_w: policy error on the winner, [B], float32, >= 0: the likelihood term.
        margin: logit of preferring the winner, [B].
        beta: weight of the preference term.
        likelihood_weight: weight of the likelihood term; 1 in the paper.

    Returns:
        likelihood_weight * error_w + beta * log 2 where both images are explained equally well.

    Source: Hong et al. 2024 (MaPO), objective; utils.py of mapo-t2i/mapo.
    """
    return likelihood_weight * error_w + beta * F.softplus(-margin)


class MaPO(Method[PairBatch]):
    """Margin-aware preference optimisation.

    Args:
        name: as typed in `method=`.
        beta: weight of the preference term; the likelihood term has `likelihood_weight`.
        snr_value: steepness of the link; with `margin_scale` it sets how far apart errors must be to count as decided.
        margin_scale: what the difference of links is multiplied by.
        error_weighting: whose error enters the margin: the raw prediction's (`uniform`), or that of the noise it
            implies (`eps_equivalent`). The likelihood term is always the raw prediction's.
        likelihood_weight: weight of the winner's error.
        prompt_dropout: share of pairs trained with the empty prompt.
    """

    batch_type = PairBatch

    def __init__(
        self,
        name: str,
        beta: NotNegative,
        snr_value: float,
        margin_scale: Positive,
        error_weighting: ErrorWeighting,
        likelihood_weight: NotNegative,
        prompt_dropout: Share,
    ) -> None:
        check_weighting(error_weighting, ("uniform", "eps_equivalent"))
        if snr_value <= 0:
            raise ValueError(f"method.snr_value={snr_value} must be above 0")
        self.name = name
        self.beta = beta
        self.snr_value = snr_value
        self.margin_scale = margin_scale
        self.error_weighting: ErrorWeighting = error_weighting
        self.likelihood_weight = likelihood_weight
        self.prompt_dropout = prompt_dropout

    def loss(self, model: ModelAdapter, batch: PairBatch, context: Context) -> Loss:
        noised = noise_pairs(model, batch, context, self.error_weighting)
        prediction = model.predict(noised.noisy_latents, noised.timesteps, batch.conditioning_both)
        error = sample_error(prediction, noised.target)
        error_w, error_l = error.chunk(2)
        compared_w, compared_l = (noised.weight * error).chunk(2)
        margin = mapo_margin(compared_w, compared_l, self.snr_value, self.margin_scale)
        metrics = {
            "accuracy": (margin > 0).float() + 0.5 * (margin == 0).float(),
            "margin": margin,
            # what is left of the push: 1/2 where both are explained equally well, 0 where the pair is decided
            "wrong_probability": torch.sigmoid(-margin),
            "link_w": link(compared_w, self.snr_value),
            "link_l": link(compared_l, self.snr_value),
            "error_w": error_w,
            "error_l": error_l,
        }
        values = mapo_loss(error_w, margin, self.beta, self.likelihood_weight)
        return Loss.mean(values, {name: value.detach() for name, value in metrics.items()})
