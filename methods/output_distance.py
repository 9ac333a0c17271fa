"""Distance between the predictions of policy and reference: a leash for any method, by `auxiliary=output_distance`."""

from alignbench.batch import ImageBatch
from alignbench.context import Context
from alignbench.method import Loss, Method
from alignbench.models.adapter import ModelAdapter
from alignbench.objectives.denoising_error import (
    ErrorWeighting,
    check_weighting,
    noise_images,
    predict_both,
    sample_error,
)
from alignbench.settings.section import Share


class OutputDistance(Method[ImageBatch]):
    """Squared distance of the two networks' predictions for noised images, mean over channels and pixels.

    Up to a factor this is the divergence between their denoising steps. It is 0 at the start, and so is its gradient.

    Args:
        name: as printed in the log.
        error_weighting: as for the denoising error of the other methods.
        prompt_dropout: share of images compared under the empty prompt.
    """

    batch_type = ImageBatch
    needs_reference = True

    def __init__(self, name: str, error_weighting: ErrorWeighting, prompt_dropout: Share) -> None:
        check_weighting(error_weighting, ("uniform", "eps_equivalent", "x0_equivalent"))
        self.name = name
        self.error_weighting: ErrorWeighting = error_weighting
        self.prompt_dropout = prompt_dropout

    def loss(self, model: ModelAdapter, batch: ImageBatch, context: Context) -> Loss:
        noised = noise_images(model, batch, context, self.error_weighting)
        prediction, expected = predict_both(model, noised, batch.conditioning)
        return Loss.mean(noised.weight * sample_error(prediction, expected))
