"""Diffusion-DPO: classify which of two images was preferred, by how much better than the reference each is explained.

Paper: Wallace et al. 2023, arXiv 2311.12908. Reference code: SalesforceAIResearch/DiffusionDPO, train.py.
With `safeguard` it is Diffusion-SDPO: Fu et al. 2025, arXiv 2511.03317. Reference code: AIDC-AI/Diffusion-SDPO.

Deviations: errors are float32 to the end (there the reference's residual is squared in half precision, which moves the
logit by 0.15 at beta 5000); timesteps follow the model family, so flow models draw theirs; an exact tie counts half in
the accuracy, as in diffusers; both images of a pair are cut and mirrored alike. The safeguard scales each pair by its
own factor; the reference code takes one for the whole micro-batch, which protects the winners on average only.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from alignbench.batch import PairBatch
from alignbench.context import Context
from alignbench.method import Loss, Method
from alignbench.models.adapter import ModelAdapter
from alignbench.objectives.denoising_error import (
    REFERENCE_ERRORS,
    ErrorWeighting,
    Noised,
    PairErrors,
    check_weighting,
    known_of_both,
    noise_pairs,
    pair_reference_errors,
    predict_both,
)
from alignbench.settings.section import Count, Positive, Share

BetaConvention = Literal["half", "full"]
Labels = Literal["hard", "soft"]


def loser_probability(probability_w: Tensor, label_smoothing: float) -> Tensor:
    """Return the probability that the loser is preferred, [B], where some labels are the wrong way round."""
    return (1 - label_smoothing) * (1 - probability_w) + label_smoothing * probability_w


def dpo_loss(margin: Tensor, probability_w: Tensor, label_smoothing: float) -> Tensor:
    """Return the Diffusion-DPO loss of each pair, [B]. Equals log 2 when policy and reference agree.

    The cross-entropy between sigmoid(margin) and the label. A certain label pushes for ever; one of p < 1 comes to rest
    where the margin is log(p / (1 - p)), and p = 1/2 pulls the policy back to the reference.

    Args:
        margin: logit of preferring the winner, [B], float32.
        probability_w: probability that the winner is preferred, [B], 0.5..1.
        label_smoothing: probability that a label is the wrong way round, 0 to below 0.5.

    Source: Wallace et al. 2023 (Diffusion-DPO), final objective; train.py of SalesforceAIResearch/DiffusionDPO. Labels
    below 1: Mitchell 2023, "A note on DPO with noisy preferences".
    """
    probability_l = loser_probability(probability_w, label_smoothing)
    # -(1 - p_l) log sigmoid(margin) - p_l log sigmoid(-margin)
    return F.softplus(-margin) + probability_l * margin


def loser_scale(residual_w: Tensor, residual_l: Tensor, safeguard: float) -> Tensor:
    """Return how much of the loser's gradient leaves the winner's error falling to first order, [B], 0..1.

    An update moves predictions along -g_w + scale g_l, g being the gradients of the two errors. It changes the winner's
    error by -|g_w|^2 + scale <g_l, g_w>; this is at most -safeguard |g_w|^2 as long as
    scale <= (1 - safeguard) |g_w|^2 / <g_l, g_w>. Opposed gradients need no bound.

    Args:
        residual_w, residual_l: prediction minus target of the policy, [B, C, h, w]; parallel to the gradients.
        safeguard: share of the winner's own progress to keep, 0..1.

    Source: Fu et al. 2025 (Diffusion-SDPO), the bound in output space.
    """
    winner, loser = residual_w.flatten(1), residual_l.flatten(1)
    bound = (1 - safeguard) * winner.square().sum(1)
    overlap = (winner * loser).sum(1)
    return torch.where(overlap > bound, bound / overlap, 1.0)


def scale_gradient(values: Tensor, scale: Tensor) -> Tensor:
    """Return `values`, to the last bit, with their gradient multiplied by `scale`."""
    fixed = values.detach()
    return fixed + scale * (values - fixed)


class DPO(Method[PairBatch]):
    """Diffusion-DPO.

    Args:
        name: as typed in `method=`.
        beta: strength of the pull towards the reference; does not carry over between error weightings.
        beta_convention: the margin is beta / 2 times the difference of error changes (`half`), or beta times (`full`).
        labels: the winner is certain (`hard`), or as probable as the data say (`soft`).
        label_smoothing: probability that a label is the wrong way round, 0 to below 0.5.
        safeguard: share of the winner's own progress that the loser must leave, 0..1; None lets it push freely.
        error_weighting: whose error is compared: the raw prediction's (`uniform`), that of the noise it implies
            (`eps_equivalent`) or of the latents (`x0_equivalent`). The first two are the same for epsilon models.
        prompt_dropout: share of pairs trained with the empty prompt.
        num_draws: number of fixed draws of each pair, whose reference errors are kept; None draws anew at each visit.
    """

    batch_type = PairBatch
    needs_reference = True

    def __init__(
        self,
        name: str,
        beta: Positive,
        beta_convention: BetaConvention,
        labels: Labels,
        label_smoothing: float,
        safeguard: float | None,
        error_weighting: ErrorWeighting,
        prompt_dropout: Share,
        num_draws: Count | None,
    ) -> None:
        check_weighting(error_weighting, ("uniform", "eps_equivalent", "x0_equivalent"))
        if beta_convention not in ("half", "full"):
            raise ValueError(f"method.beta_convention={beta_convention} is unknown; available: half, full")
        if labels not in ("hard", "soft"):
            raise ValueError(f"method.labels={labels} is unknown; available: hard, soft")
        if not 0 <= label_smoothing < 0.5:
            raise ValueError(f"method.label_smoothing={label_smoothing} must be at least 0 and below 0.5")
        if safeguard is not None and not 0 <= safeguard <= 1:
            raise ValueError(f"method.safeguard={safeguard} must lie between 0 and 1, or be null")
        self.name = name
        self.beta = beta if beta_convention == "half" else 2 * beta  # from here on with the factor 1/2
        self.labels: Labels = labels
        self.label_smoothing = label_smoothing
        self.safeguard = safeguard
        self.error_weighting: ErrorWeighting = error_weighting
        self.prompt_dropout = prompt_dropout
        self.num_draws = num_draws

    def loss(self, model: ModelAdapter, batch: PairBatch, context: Context) -> Loss:
        noised = self.noised(model, batch, context)
        conditioning = batch.conditioning_both
        if batch.known is None:
            prediction, expected = predict_both(model, noised, conditioning)
            ref_error_w, ref_error_l = noised.error(expected).chunk(2)
        else:
            prediction = model.predict(noised.noisy_latents, noised.timesteps, conditioning)
            ref_error_w, ref_error_l = (noised.weight * known_of_both(batch.known, "ref_error")).chunk(2)
        error_w, error_l = noised.error(prediction).chunk(2)

        scale = torch.ones_like(error_l)
        if self.safeguard is not None:
            residual_w, residual_l = (prediction - noised.target).detach().chunk(2)
            scale = loser_scale(residual_w, residual_l, self.safeguard)
        errors = PairErrors(error_w, scale_gradient(error_l, scale), ref_error_w, ref_error_l)

        probability_w = batch.probability_w if self.labels == "soft" else torch.ones_like(batch.probability_w)
        values = dpo_loss(errors.margin(self.beta), probability_w, self.label_smoothing)
        return Loss.mean(values, {**errors.metrics(self.beta), "loser_scale": scale})

    def reference_values(self, model: ModelAdapter, batch: PairBatch, context: Context) -> dict[str, Tensor]:
        return pair_reference_errors(model, self.noised(model, batch, context), batch.conditioning_both)

    @property
    def reference_settings(self) -> dict[str, Any]:
        return {"values": REFERENCE_ERRORS}

    def noised(self, model: ModelAdapter, batch: PairBatch, context: Context) -> Noised:
        """Noise both images of each pair; rows are all winners, then all losers."""
        return noise_pairs(model, batch, context, self.error_weighting)
