"""What images are sampled with where the weights that are given were distilled, and the model's file is for others."""

from collections.abc import Mapping
from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from alignbench.models.adapter import ModelAdapter

NO_GUIDANCE = 1.0


def follow_distilled_weights(cfg: DictConfig) -> list[str]:
    """Set the guidance scale and the number of steps that the weights of a configuration need.

    Returns:
        What was done, one line each, for the head of a run.
    """
    model = cfg.model
    if "pretrained_model_name_or_path" not in model:
        return []
    from alignbench.models.weights.loading import part_config

    family = get_class(model.adapter._target_)
    denoiser, scheduler = (
        part_config(model.pretrained_model_name_or_path, part, model.revision, model.config)
        for part in (family.denoiser_name, "scheduler")
    )
    lines = (_drop_missing_guidance(cfg, family, denoiser), _take_few_steps(cfg, family, denoiser, scheduler))
    return [line for line in lines if line is not None]


def _drop_missing_guidance(cfg: DictConfig, family: type[ModelAdapter], denoiser: Mapping[str, Any]) -> str | None:
    """Set `sampling.guidance_scale` to no guidance if the network of the weights has no input for it.

    The scale of the model's file is meant for that input. As the weight of classifier-free guidance it would be another
    number, and double the time of an image, which nobody asked for.
    """
    if cfg.model.adapter.get("train_guidance_scale") is None or family.takes_guidance(denoiser):
        return None
    cfg.sampling.guidance_scale = NO_GUIDANCE
    return (
        "guidance    none: these weights have no guidance input; sampling.true_cfg_scale=VALUE adds classifier-free "
        "guidance, in two network passes a step"
    )


def _take_few_steps(
    cfg: DictConfig, family: type[ModelAdapter], denoiser: Mapping[str, Any], scheduler: Mapping[str, Any]
) -> str | None:
    """Set `model.num_inference_steps` to `model.steps.few` for weights of few steps, unless another number was typed.

    A number that was typed stands in the place of the interpolation that refers to the model's file.
    """
    typed = [node for node in (cfg.sampling, cfg.model) if not OmegaConf.is_interpolation(node, "num_inference_steps")]
    if typed or "steps" not in cfg.model or not family.takes_few_steps(denoiser, scheduler):
        return None
    cfg.model.num_inference_steps = cfg.model.steps.few
    return (
        f"steps       {cfg.model.steps.few}: weights of this kind were distilled for few steps; "
        "sampling.num_inference_steps=NUMBER takes others"
    )
