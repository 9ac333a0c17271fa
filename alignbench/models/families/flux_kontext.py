"""FLUX.1-Kontext-dev, as a model of text alone: its input image is never given."""

from typing import Any

from alignbench.models.families.flux import Flux
from alignbench.models.schedulers import FLOW_EULER


class FluxKontext(Flux):
    """FLUX.1-Kontext-dev, which has the networks of FLUX.1-dev."""

    pipeline_class = "FluxKontextPipeline"
    schedulers = FLOW_EULER
    controlnet = None
    no_controlnet = "it takes an image itself, and no ControlNet of FLUX.1-dev was made for it"

    def size_arguments(self, height: int, width: int) -> dict[str, Any]:
        """Say how many pixels there are in all, to which the pipeline would bring images of any other size."""
        return super().size_arguments(height, width) | {"max_area": height * width}
