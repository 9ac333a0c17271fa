"""A tiny random FLUX.1-Kontext."""

from diffusers.pipelines.flux.pipeline_flux_kontext import FluxKontextPipeline

from alignbench.models.families.flux_kontext import FluxKontext
from alignbench.models.tiny_random import flux
from alignbench.models.tiny_random.parts import Tiny


def tiny_flux_kontext(seed: int = 0) -> FluxKontextPipeline:
    """Return a random FLUX.1-Kontext, whose networks are those of FLUX.1."""
    return FluxKontextPipeline(**flux.tiny_flux(seed).components)


TINY = Tiny(FluxKontext, tiny_flux_kontext, flux.TINY.settings)
