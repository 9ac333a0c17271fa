"""Linear-DPO: a pair pulls by a weight that falls linearly with its margin, and never quite stops pulling.

Paper: Li et al. 2026, "Linear-DPO: Linear Direct Preference Optimization for Diffusion and Flow-Matching Generative
Models", arXiv 2605.21123. Reference code: WhynotChen0105/Linear-DPO, train/train_sd_dpo.py and train_sd3_dpo.py (it has
no licence; this is written from the mathematics).

Deviations: the moving reference is float32 (there half precision, which loses a third of the policy's path at its
decay) and follows after each update on every model (there before it for SD3); errors are float32 to the end; winners
are those of the data (there PickScore ranks every pair again); timesteps follow the model family.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from torch import Tensor

from alignbench.batch import PairBatch
from alignbench.context import Context
from alignbench.method import Loss, Method, WeightCopies
from alignbench.models.adapter import ModelAdapter
from alignbench.models.lagged_weights import Lag
from alignbench.objectives.denoising_error import (
    REFERENCE_ERRORS,
    ErrorWeighting,
    check_weighting,
    noise_pairs,
    pair_errors,
    pair_reference_errors,
)
from alignbench.settings.section import Count, Positive, Share

Reference = Literal["ema", "frozen"]
SLOPE = 0.4  # of the weight against the margin; that of Diffusion-DPO's weight at 0 is 0.25


def pair_weight(margin: Tensor, eta: float) -> Tensor:
    """Return how strongly each pair pulls, [B], eta..1 - eta, without a gradient: 1/2 at a margin of 0.

    Args:
        margin: logit of preferring the winner, [B].
        eta: what a learnt pair keeps, and what a wrongly ordered one lacks of 1; 0 to 0.5.
    """
    return (0.5 - SLOPE * margin.detach()).clamp(eta, 1 - eta)


def linear_dpo_loss(error_w: Tensor, error_l: Tensor, weight: Tensor) -> Tensor:
    """Return the loss of each pair, [B]: weight * (error_w - error_l). Its value has no lower bound.

    Args:
        error_w, error_l: policy error on winner and loser, [B], float32, >= 0.
        weight: see `pair_weight`.

    Source: Li et al. 2026 (Linear-DPO); train_sd_dpo.py of WhynotChen0105/Linear-DPO.
    """
    return weight * (error_w - error_l)


class LinearDPO(Method[PairBatch]):
    """Linear-DPO.

    Args:
        name: as typed in `method=`.
        beta: what a difference of error changes is worth, in the convention of Diffusion-DPO with the factor 1/2. It
            sets where weights reach their limits; the gradient itself has no factor beta.
        eta: see `pair_weight`; 0.5 is the plain difference of errors, without a reference's say.
        reference: an average of the policy's past (`ema`), or its start (`frozen`).
        reference_decay: share of that average that an update leaves.
        error_weighting: whose error is compared: the raw prediction's (`uniform`), that of the noise it implies
            (`eps_equivalent`) or of the latents (`x0_equivalent`).
        prompt_dropout: share of pairs trained with the empty prompt.
        num_draws: number of fixed draws of each pair, whose reference errors are kept; None draws anew at each visit.
            Needs the frozen reference.
    """

    batch_type = PairBatch

    def __init__(
        self,
        name: str,
        beta: Positive,
        eta: float,
        reference: Reference,
        reference_decay: Share,
        error_weighting: ErrorWeighting,
        prompt_dropout: Share,
        num_draws: Count | None,
    ) -> None:
        check_weighting(error_weighting, ("uniform", "eps_equivalent", "x0_equivalent"))
        if not 0 <= eta <= 0.5:
            raise ValueError(f"method.eta={eta} must lie between 0 and 0.5")
        if reference not in ("ema", "frozen"):
            raise ValueError(f"method.reference={reference} is unknown; available: ema, frozen")
        if num_draws is not None and reference != "frozen":
            raise ValueError(
                f"method.num_draws={num_draws} keeps the reference's errors, and those of method.reference={reference} "
                "change; set method.reference=frozen"
            )
        self.name = name
        self.beta = beta
        self.eta = eta
        self.needs_reference = reference == "frozen"
        if reference == "ema":
            self.lag = Lag(start=reference_decay, slope=0, cap=reference_decay, delay=0)
        self.error_weighting: ErrorWeighting = error_weighting
        self.prompt_dropout = prompt_dropout
        self.num_draws = num_draws
        self._followed = -1  # the last step after which the average was moved

    @classmethod
    def weight_copies(cls, settings: Mapping[str, Any]) -> WeightCopies:
        return WeightCopies(reference=settings["reference"] == "frozen", old=settings["reference"] == "ema")

    def rollout(self, model: ModelAdapter, batch: PairBatch, context: Context) -> Iterable[list[PairBatch]]:
        yield batch.split(context.micro_batch_size)
        # once an update, however many parts its batch has: one for each size of images
        if self.lag is not None and model.lagged_weights is not None and self._followed < context.step:
            self._followed = context.step
            model.lagged_weights.follow(self.lag.decay(context.step + 1))

    def loss(self, model: ModelAdapter, batch: PairBatch, context: Context) -> Loss:
        noised = noise_pairs(model, batch, context, self.error_weighting)
        reference = model.reference if self.lag is None else model.old_policy
        errors = pair_errors(model, noised, batch.conditioning_both, reference, batch.known)
        weight = pair_weight(errors.margin(self.beta), self.eta)
        metrics = {
            "pair_weight": weight,
            "weight_at_min": (weight <= self.eta).float(),
            "weight_at_max": (weight >= 1 - self.eta).float(),
        }
        return Loss.mean(linear_dpo_loss(errors.error_w, errors.error_l, weight), errors.metrics(self.beta) | metrics)

    def reference_values(self, model: ModelAdapter, batch: PairBatch, context: Context) -> dict[str, Tensor]:
        noised = noise_pairs(model, batch, context, self.error_weighting)
        return pair_reference_errors(model, noised, batch.conditioning_both)

    @property
    def reference_settings(self) -> dict[str, Any]:
        return {"values": REFERENCE_ERRORS}
