"""Diffusion-KTO: give each image the utility a person would see in it, from a like or a dislike of that image alone.

Paper: Li et al. 2024, arXiv 2404.04465. Reference code: jacklishufan/diffusion-kto (it has no licence; this is written
from the mathematics).

Deviations: the reference point is clamped at zero in every mode (there in one of three), is a mean over samples instead
of processes' means, and has two modes more; `mismatched` refuses a single sample, whose only prompt is its own; labels
are balanced by exact shares and shuffled epochs instead of draws with replacement; noise and timesteps differ between
processes; the policy keeps its precision during the reference pass; errors are float32 to the end; timesteps follow
the model family. Utilities of the code that the paper does not have are left out, and so is its moving reference.
"""

from dataclasses import replace
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from alignbench.batch import Conditioning, LabelledBatch
from alignbench.context import Context
from alignbench.errors import UserError
from alignbench.method import Loss, Method
from alignbench.models.adapter import ModelAdapter
from alignbench.objectives.denoising_error import (
    REFERENCE_ERRORS,
    ErrorWeighting,
    Noised,
    both_errors,
    check_weighting,
    noise_images,
    reference_error,
)
from alignbench.settings.section import Count, NotNegative, Positive, Share

Utility = Literal["kt", "loss_averse", "risk_seeking"]
QMode = Literal["batch", "class_mean", "mismatched", "zero", "ema"]


def prospect(gain: Tensor, reference_point: Tensor, desirable: Tensor, beta: float) -> Tensor:
    """Return z = +-beta (gain - reference_point), [B]: how far each image is on the side where its label wants it.

    Args:
        gain: error of the reference minus that of the policy, [B], float32; positive where the policy explains the
            image better.
        reference_point: gain that counts as neither gained nor lost, [], without a gradient.
        desirable: label, [B], bool.
        beta: strength of the pull towards the reference, without the factor 1/2 of Diffusion-DPO.
    """
    return torch.where(desirable, 1.0, -1.0) * beta * (gain - reference_point)


def kto_loss(z: Tensor, utility: Utility) -> Tensor:
    """Return 1 - U(z) for each image, [B].

    kt: U = sigmoid(z), flat for large gains and large losses. loss_averse: U = log sigmoid(z), flat for gains only.
    risk_seeking: U = -log sigmoid(-z), flat for losses only. At z = 0 the loss is 0.5, 1 + log 2 and 1 - log 2.

    Source: Li et al. 2024 (Diffusion-KTO), objective and utilities.
    """
    match utility:
        case "kt":
            return torch.sigmoid(-z)  # 1 - sigmoid(z), without the cancellation
        case "loss_averse":
            return 1 + F.softplus(-z)
        case "risk_seeking":
            return 1 - F.softplus(z)


class KTO(Method[LabelledBatch]):
    """Diffusion-KTO.

    Args:
        name: as typed in `method=`.
        beta: strength of the pull towards the reference. Diffusion-DPO's is twice as large for the same slope.
        utility: how gains and losses are felt: `kt`, `loss_averse` or `risk_seeking`.
        q_mode: the gain that counts as nothing: the mean over the micro-batches of all processes (`batch`), the mean of
            the means of both labels (`class_mean`), the mean gain under another image's prompt (`mismatched`), `zero`,
            or a running mean of earlier micro-batches (`ema`), so that no sample is measured by itself.
        q_clamp: whether that point is at least 0, as the divergence it estimates is.
        q_decay: share of the running mean that a micro-batch leaves; not used by other modes.
        lambda_desirable, lambda_undesirable: weight of the loss of images with either label.
        desirable_share: share of desirable images among those shown, between 0 and 1; None shows the data as they are.
        error_weighting: whose error is compared: the raw prediction's (`uniform`), or that of the noise it implies
            (`eps_equivalent`).
        prompt_dropout: share of images trained with the empty prompt.
        num_draws: number of fixed draws of each image, whose reference errors are kept; None draws anew at each visit.
    """

    batch_type = LabelledBatch
    needs_reference = True
    batch_coupled = True

    def __init__(
        self,
        name: str,
        beta: Positive,
        utility: Utility,
        q_mode: QMode,
        q_clamp: bool,
        q_decay: float,
        lambda_desirable: NotNegative,
        lambda_undesirable: NotNegative,
        desirable_share: float | None,
        error_weighting: ErrorWeighting,
        prompt_dropout: Share,
        num_draws: Count | None,
    ) -> None:
        check_weighting(error_weighting, ("uniform", "eps_equivalent"))
        if utility not in get_args(Utility):
            raise ValueError(f"method.utility={utility} is unknown; available: {', '.join(get_args(Utility))}")
        if q_mode not in get_args(QMode):
            raise ValueError(f"method.q_mode={q_mode} is unknown; available: {', '.join(get_args(QMode))}")
        if not 0 <= q_decay < 1:
            raise ValueError(f"method.q_decay={q_decay} must be at least 0 and below 1")
        if desirable_share is not None and not 0 < desirable_share < 1:
            raise ValueError(f"method.desirable_share={desirable_share} must lie between 0 and 1, or be null")
        self.name = name
        self.beta = beta
        self.utility: Utility = utility
        self.q_mode: QMode = q_mode
        self.q_clamp = q_clamp
        self.q_decay = q_decay
        self.lambda_desirable = lambda_desirable
        self.lambda_undesirable = lambda_undesirable
        self.desirable_share = desirable_share
        self.error_weighting: ErrorWeighting = error_weighting
        self.prompt_dropout = prompt_dropout
        self.num_draws = num_draws
        self.running_gain: float | Tensor = 0.0  # what every gain is at the start; then on the device

    def loss(self, model: ModelAdapter, batch: LabelledBatch, context: Context) -> Loss:
        mismatched = self.q_mode == "mismatched"
        if mismatched and len(batch) == 1:
            raise UserError(
                "method.q_mode=mismatched gives each image the prompt of another, and a micro-batch holds only one; "
                "choose train.micro_batch_size above 1 so that it divides each process's share of total_batch_size"
            )
        noised = noise_images(model, batch, context, self.error_weighting)
        others_gain = _gain_of_others(model, noised, batch) if mismatched else None
        known = None if batch.known is None else batch.known["ref_error"]
        error, ref_error = both_errors(model, noised, batch.conditioning, known=known)
        gain = ref_error - error
        point = self.reference_point(gain if others_gain is None else others_gain, batch.desirable, context)
        z = prospect(gain, point, batch.desirable, self.beta)
        weight = torch.where(batch.desirable, self.lambda_desirable, self.lambda_undesirable)
        values = weight * kto_loss(z, self.utility)
        return Loss.mean(values, _metrics(noised, error, ref_error, batch.desirable, point, z))

    def reference_values(self, model: ModelAdapter, batch: LabelledBatch, context: Context) -> dict[str, Tensor]:
        noised = noise_images(model, batch, context, self.error_weighting)
        return {"ref_error": reference_error(model, noised, batch.conditioning)}

    @property
    def reference_settings(self) -> dict[str, Any]:
        return {"values": REFERENCE_ERRORS}

    def reference_point(self, gain: Tensor, desirable: Tensor, context: Context) -> Tensor:
        """Return the gain that counts as nothing, [], over the micro-batches of all processes; no gradient.

        Args:
            gain: [B]; the gains under other prompts where `q_mode` is `mismatched`.
        """
        gain = gain.detach()
        match self.q_mode:
            case "zero":
                return gain.new_zeros(())
            case "class_mean":
                # rows chosen by a mask would be counted on the CPU, which waits for a GPU
                means = [
                    context.reduce(torch.where(label, gain, 0).sum(), label.sum()) for label in (desirable, ~desirable)
                ]
                point = torch.stack(means).nanmean()  # a label that nobody has is 0 / 0 and says nothing
            case "ema":
                point = torch.as_tensor(self.running_gain, dtype=gain.dtype, device=gain.device)
                mean = context.reduce(gain.sum(), gain.new_full((), len(gain))).double()
                self.running_gain = self.q_decay * self.running_gain + (1 - self.q_decay) * mean
            case _:
                point = context.reduce(gain.sum(), gain.new_full((), len(gain)))
        return point.clamp(min=0) if self.q_clamp else point

    def state_dict(self) -> dict[str, Any]:
        return {"running_gain": float(self.running_gain)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.running_gain = state["running_gain"]


@torch.no_grad()
def _metrics(
    noised: Noised, error: Tensor, ref_error: Tensor, desirable: Tensor, point: Tensor, z: Tensor
) -> dict[str, Tensor]:
    gain, timesteps = ref_error - error, noised.timesteps

    def among(chosen: Tensor) -> Tensor:
        return torch.where(chosen, gain, torch.nan)

    return {
        "accuracy": (z > 0).float() + 0.5 * (z == 0).float(),
        "reference_point": point.expand_as(gain),
        "desirable": desirable.float(),
        "gain_desirable": among(desirable),
        "gain_undesirable": among(~desirable),
        # thirds of the network's time: the scale of gains differs between them by orders of magnitude
        "gain_clean": among(timesteps < 1000 / 3),
        "gain_middle": among((timesteps >= 1000 / 3) & (timesteps < 2000 / 3)),
        "gain_noisy": among(timesteps >= 2000 / 3),
        # slope of the kt utility: 0.25 where nothing is decided, 0 where the image no longer pushes
        "slope": torch.sigmoid(z) * torch.sigmoid(-z),
        "saturated": (z.abs() > 4).float(),
        "error": error.detach(),
        "ref_error": ref_error,
    }


@torch.no_grad()
def _gain_of_others(model: ModelAdapter, noised: Noised, batch: LabelledBatch) -> Tensor:
    """Return the gain of each image under the prompt of another, [B]."""
    error, ref_error = both_errors(model, noised, _others(batch))
    # older versions of PyTorch would hand the loss the weights that autocast has cast here without a gradient
    torch.clear_autocast_cache()
    return ref_error - error


def _others(batch: LabelledBatch) -> Conditioning:
    """Return for each image the prompt of its neighbour; no image keeps its own. What is told of its size stays."""
    others = batch.conditioning.map(lambda rows: rows.roll(1, dims=0))
    return replace(others, time_ids=batch.conditioning.time_ids)
