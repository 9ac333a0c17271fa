"""Supervised fine-tuning: plain denoising training on the images people liked, or on all of them.

The baseline that every preference method has to beat. Reference code: `train.py --sft` of
SalesforceAIResearch/DiffusionDPO. Deviations: no reference network is loaded; v-prediction and flow models are allowed;
timesteps follow the model family.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from alignbench.batch import Conditioning, ImageBatch, LabelledBatch, PairBatch
from alignbench.context import Context
from alignbench.method import BatchT, Loss, Method
from alignbench.models.adapter import ModelAdapter
from alignbench.objectives.denoising_error import ErrorWeighting, check_weighting, noise_images, prediction_error
from alignbench.settings.section import Positive, Share

Normalise = Literal["selected", "batch"]


def sft_loss(error: Tensor, selected: Tensor, normalise: Normalise) -> tuple[Tensor, Tensor]:
    """Return values and weights whose weighted mean is the loss.

    Args:
        error: error of each image, [B], float32.
        selected: whether the image is trained on, [B], bool.
        normalise: divide by the number of selected images, or by the size of the whole batch. The two differ by the
            share of selected images, a factor on the learning rate.
    """
    chosen = selected.to(error.dtype)
    if normalise == "selected":
        return error, chosen
    return error * chosen, torch.ones_like(error)


class Supervised(Method[BatchT]):
    """What both kinds of data share.

    Args:
        name: as typed in `method=`.
        variant: `chosen` trains on the preferred images, `all` on every one (the control for having seen more data).
        error_weighting: factor on the error at each noise level.
        snr_gamma: ceiling of `min_snr`; None for other weightings.
        normalise: whether the loss is divided by the number of selected images or of all.
        prompt_dropout: share of samples trained with the empty prompt.
    """

    def __init__(
        self,
        name: str,
        variant: Literal["chosen", "all"],
        error_weighting: ErrorWeighting,
        snr_gamma: Positive | None,
        normalise: Normalise,
        prompt_dropout: Share,
    ) -> None:
        check_weighting(error_weighting, get_args(ErrorWeighting))
        if variant not in ("chosen", "all"):
            raise ValueError(f"method.variant={variant} is unknown; available: chosen, all")
        if normalise not in ("selected", "batch"):
            raise ValueError(f"method.normalise={normalise} is unknown; available: selected, batch")
        self.name = name
        self.variant = variant
        self.error_weighting: ErrorWeighting = error_weighting
        self.snr_gamma = snr_gamma
        self.normalise: Normalise = normalise
        self.prompt_dropout = prompt_dropout

    def error(self, model: ModelAdapter, images: ImageBatch, context: Context, draw: str = "") -> Tensor:
        """Return the error of each image, [B]."""
        noised = noise_images(model, images, context, self.error_weighting, self.snr_gamma, draw)
        return prediction_error(model, noised, images.conditioning)

    def weigh(self, error: Tensor, selected: Tensor) -> Loss:
        """Return the loss of images of which only some count."""
        values, weights = sft_loss(error, selected, self.normalise)
        return Loss(values, weights, {"error": error.detach()})


class SFT(Supervised[PairBatch]):
    """Denoising training on the images of pairs: `chosen` are the winners."""

    batch_type = PairBatch

    def loss(self, model: ModelAdapter, batch: PairBatch, context: Context) -> Loss:
        error = self.error(model, _images(batch, batch.latents_w, batch.conditioning), context)
        if self.variant == "all":
            losers = _images(batch, batch.latents_l, batch.conditioning_l)
            error = torch.cat([error, self.error(model, losers, context, draw="_l")])
        return self.weigh(error, torch.ones_like(error, dtype=torch.bool))


class LabelledSFT(Supervised[LabelledBatch]):
    """Denoising training on single images with labels: `chosen` are the desirable ones."""

    batch_type = LabelledBatch

    def loss(self, model: ModelAdapter, batch: LabelledBatch, context: Context) -> Loss:
        error = self.error(model, batch, context)
        return self.weigh(error, batch.desirable if self.variant == "chosen" else torch.ones_like(batch.desirable))


def _images(batch: PairBatch, latents: Tensor, conditioning: Conditioning) -> ImageBatch:
    return ImageBatch(batch.index, batch.prompts, conditioning, latents)
