"""Reverse KL: the labels of Diffusion-DPO with the divergence turned round, so that a pair comes to rest once learnt.

The pairwise reverse KL is known from language models: Ji et al. 2024, "Towards Efficient Exact Optimization of Language
Model Alignment" (EXO), arXiv 2402.00856. For diffusion models this form is ours. DMPO (arXiv 2507.07510) minimises a
reverse KL, too, but has no published code; this method does not claim to be it.
"""

from typing import Any

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
    check_weighting,
    noise_pairs,
    pair_errors,
    pair_reference_errors,
)
from alignbench.settings.section import Count, Positive, Share
from methods.dpo import Labels, loser_probability


def reverse_kl_loss(margin: Tensor, probability_l: Tensor) -> Tensor:
    """Return how far the policy's preference is from the label of each pair, [B], >= 0.

    KL(sigmoid(margin) || 1 - probability_l). The slope in the margin is s (1 - s) (margin - rest), with
    s = sigmoid(margin): each pair is pulled to rest = log((1 - probability_l) / probability_l) from both sides, and the
    pull vanishes where the policy is sure, rightly or wrongly.

    Args:
        margin: logit of preferring the winner, [B], float32.
        probability_l: probability that the loser is preferred, [B], above 0 and below 1.
    """
    log_w, log_l = F.logsigmoid(margin), F.logsigmoid(-margin)
    return log_w.exp() * (log_w - torch.log1p(-probability_l)) + log_l.exp() * (log_l - probability_l.log())


class ReverseKL(Method[PairBatch]):
    """Reverse KL from the label to the policy's preference.

    Args:
        name: as typed in `method=`.
        beta: strength of the pull towards the reference, in the convention of Diffusion-DPO with the factor 1/2.
        alpha: probability that a label is the wrong way round, above 0 and below 0.5. A certain winner rests at a
            margin of log((1 - alpha) / alpha).
        labels: the winner is certain (`hard`), or as probable as the data say (`soft`).
        error_weighting: whose error is compared: the raw prediction's (`uniform`), that of the noise it implies
            (`eps_equivalent`) or of the latents (`x0_equivalent`).
        prompt_dropout: share of pairs trained with the empty prompt.
        num_draws: number of fixed draws of each pair, whose reference errors are kept; None draws anew at each visit.
    """

    batch_type = PairBatch
    needs_reference = True

    def __init__(
        self,
        name: str,
        beta: Positive,
        alpha: float,
        labels: Labels,
        error_weighting: ErrorWeighting,
        prompt_dropout: Share,
        num_draws: Count | None,
    ) -> None:
        check_weighting(error_weighting, ("uniform", "eps_equivalent", "x0_equivalent"))
        if not 0 < alpha < 0.5:
            raise ValueError(f"method.alpha={alpha} must be above 0 and below 0.5")
        if labels not in ("hard", "soft"):
            raise ValueError(f"method.labels={labels} is unknown; available: hard, soft")
        self.name = name
        self.beta = beta
        self.alpha = alpha
        self.labels: Labels = labels
        self.error_weighting: ErrorWeighting = error_weighting
        self.prompt_dropout = prompt_dropout
        self.num_draws = num_draws

    def loss(self, model: ModelAdapter, batch: PairBatch, context: Context) -> Loss:
        noised = noise_pairs(model, batch, context, self.error_weighting)
        errors = pair_errors(model, noised, batch.conditioning_both, known=batch.known)
        probability_w = batch.probability_w if self.labels == "soft" else torch.ones_like(batch.probability_w)
        values = reverse_kl_loss(errors.margin(self.beta), loser_probability(probability_w, self.alpha))
        return Loss.mean(values, errors.metrics(self.beta))

    def reference_values(self, model: ModelAdapter, batch: PairBatch, context: Context) -> dict[str, Tensor]:
        noised = noise_pairs(model, batch, context, self.error_weighting)
        return pair_reference_errors(model, noised, batch.conditioning_both)

    @property
    def reference_settings(self) -> dict[str, Any]:
        return {"values": REFERENCE_ERRORS}
