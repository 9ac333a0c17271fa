"""What is sampled where a model's file counts on a guidance input, and the weights that are given have none."""

from hydra.utils import get_class
from omegaconf import DictConfig

NO_GUIDANCE = 1.0


def drop_missing_guidance(cfg: DictConfig) -> str | None:
    """Set `sampling.guidance_scale` to no guidance if the network of the weights has no input for it.

    The scale of the model's file is meant for that input. As the weight of classifier-free guidance it would be another
    number, and double the time of an image, which nobody asked for.

    Returns:
        What was done, for the head of a run; None if nothing was.
    """
    model = cfg.model
    if "pretrained_model_name_or_path" not in model or model.adapter.get("train_guidance_scale") is None:
        return None
    from alignbench.models.weights.loading import part_config

    family = get_class(model.adapter._target_)
    source = model.pretrained_model_name_or_path
    if family.takes_guidance(part_config(source, family.denoiser_name, model.revision, model.config)):
        return None
    cfg.sampling.guidance_scale = NO_GUIDANCE
    return (
        "guidance    none: these weights have no guidance input; sampling.true_cfg_scale=VALUE adds classifier-free "
        "guidance, in two network passes a step. If they were distilled for few steps, as FLUX.1-schnell, add "
        "sampling.num_inference_steps=4"
    )
