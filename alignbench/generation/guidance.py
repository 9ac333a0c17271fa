"""Which guidance a model can be sampled with, beside the scale that every model takes."""

from collections.abc import Mapping
from typing import Any

from alignbench.errors import UserError
from alignbench.models.adapter import ModelAdapter


def check_guidance(model: str, family: type[ModelAdapter], distilled: bool, sampling: Mapping[str, Any]) -> None:
    """Refuse guidance that the pipeline of a model cannot do, or would silently leave undone.

    Args:
        model: its name, for the sentence.
        family: its adapter.
        distilled: whether guidance is an input of its network, as of FLUX.1-dev.
        sampling: values of the configuration.

    Raises:
        UserError: naming the setting and what to set instead.
    """
    guidance, negative, true_cfg = (sampling[key] for key in ("guidance_scale", "negative_prompt", "true_cfg_scale"))
    if true_cfg is not None and not distilled:
        raise UserError(f"sampling.true_cfg_scale is not for model={model}; sampling.guidance_scale guides every model")
    if negative is not None and not family.takes_negative_prompt:
        raise UserError(
            f"sampling.negative_prompt is not taken by model={model}, whose pipeline guides away from the empty prompt "
            "alone; leave it out"
        )
    if negative is not None and distilled and true_cfg is None:
        raise UserError(
            f"sampling.negative_prompt has no effect on model={model}, whose guidance is an input of its network; add "
            "sampling.true_cfg_scale=VALUE above 1, which doubles the time of an image, or leave it out"
        )
    least = family.no_guidance_scale
    if negative is not None and not distilled and guidance <= least:
        raise UserError(
            f"sampling.negative_prompt has no effect at sampling.guidance_scale={guidance}; set it above {least:g}"
        )
