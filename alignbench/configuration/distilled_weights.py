"""What images are sampled with where the weights that are given were distilled, and the model's file is for others."""

from collections.abc import Mapping
from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from alignbench.data.source import kind_of
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
    from alignbench.models.weights.loading import part_config, pipeline_index

    family = get_class(model.adapter._target_)
    path, revision, config = model.pretrained_model_name_or_path, model.revision, model.config
    index = pipeline_index(path, revision, config)
    denoiser, scheduler = (part_config(path, part, revision, config) for part in (family.denoiser_name, "scheduler"))
    lines = [_drop_missing_guidance(cfg, family, denoiser)]
    if family.takes_few_steps(index, denoiser, scheduler):
        lines += [_take_few(cfg, "steps", "num_inference_steps"), _take_few(cfg, "guidance", "guidance_scale")]
        lines.append(_of_many_steps(cfg))
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


def _take_few(cfg: DictConfig, name: str, key: str) -> str | None:
    """Set a value of the model's file to that for weights of few steps, if there is one and no other was typed.

    A value that was typed stands in the place of the interpolation that refers to the model's file.

    Args:
        name: of the group that has both values, such as `steps`.
        key: of the value under `sampling` and `model`.
    """
    typed = [node for node in (cfg.sampling, cfg.model) if not OmegaConf.is_interpolation(node, key)]
    if typed or name not in cfg.model:
        return None
    cfg.model[key] = cfg.model[name].few
    return (
        f"{name:<12}{cfg.model[name].few}: weights of this kind were distilled for few steps; "
        f"sampling.{key}=NUMBER takes {'others' if name == 'steps' else 'another'}"
    )


def _of_many_steps(cfg: DictConfig) -> str | None:
    """Return a warning if a loss on given images trains weights that were distilled for few steps."""
    if "train" not in cfg.stages or kind_of(get_class(cfg.method._target_).batch_type) == "prompts":
        return None
    return (
        f"warning     method={cfg.method.name} trains on noise levels that weights of few steps were not distilled "
        "for; images may blur. Train the model that they were distilled from"
    )
