"""Sampling by diffusers' ControlNet pipelines, which share the networks of a model."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from alignbench.context import keyed_generator
from alignbench.errors import UserError
from alignbench.generation.pipeline_sampler import Sampler
from alignbench.models.adapter import ModelAdapter
from alignbench.models.weights.component import check_part


@dataclass(frozen=True)
class Family:
    """What diffusers has for one family.

    Attributes:
        pipeline: class that samples under control.
        network: class of its ControlNets.
        argument: of the pipeline's call that takes the maps.
        width: value of the configuration in which ControlNets of different models differ.
        scheduler: the only one that its pipeline works with, where there is one.
    """

    pipeline: str
    network: str
    argument: str
    width: str
    scheduler: str | None = None


# By the class of the pipeline without control. Stable Diffusion 3 is left out: its pipeline encodes each map with a
# draw that nothing seeds, so that no image could be made again.
FAMILIES: Mapping[str, Family] = {
    "StableDiffusionPipeline": Family(
        "StableDiffusionControlNetPipeline", "ControlNetModel", "image", width="cross_attention_dim"
    ),
    "StableDiffusionXLPipeline": Family(
        "StableDiffusionXLControlNetPipeline", "ControlNetModel", "image", width="cross_attention_dim"
    ),
    "FluxPipeline": Family(
        "FluxControlNetPipeline",
        "FluxControlNetModel",
        "control_image",
        width="joint_attention_dim",
        scheduler="FlowMatchEulerDiscrete",  # the pipeline gives the scheduler its levels, which others do not take
    ),
}


def check_family(pipeline_class: str, model: str, scheduler: str | None) -> None:
    """Refuse a family that is not sampled under control, and a scheduler that its pipeline cannot take.

    Args:
        pipeline_class: of the model without control.
        model: its name, for the sentence.
        scheduler: what is asked for by `sampling.scheduler`.

    Raises:
        UserError: with what would do.
    """
    if pipeline_class not in FAMILIES:
        raise UserError(
            f"model={model} is not sampled by a ControlNet: diffusers' pipeline of its family encodes maps by a draw "
            "without a seed, so that images could not be made again; choose a model of Stable Diffusion 1.5, XL or FLUX"
        )
    only = FAMILIES[pipeline_class].scheduler
    if only is not None and scheduler not in (None, only):
        raise UserError(
            f"sampling.scheduler={scheduler} does not work with a ControlNet on model={model}; leave it out, or choose "
            f"{only}"
        )


def check_controlnet(path: str, pipeline_class: str, revision: str | None = None) -> None:
    """Refuse a ControlNet that is not there or not of the family of a pipeline.

    Args:
        path: folder or hub id.
        revision: commit, branch or tag on the hub.

    Raises:
        UserError: with what would do.
    """
    check_part(path, f"sampling.control.controlnet={path}", [FAMILIES[pipeline_class].network], revision)


def load_controlnet(path: str, model: ModelAdapter, revision: str | None = None) -> Any:
    """Return a ControlNet for a model, where the model is and in its dtype.

    Raises:
        UserError: if it was trained for another model of the same class.
    """
    import diffusers

    family = FAMILIES[model.pipeline_class]
    network = getattr(diffusers, family.network).from_pretrained(path, revision=revision, torch_dtype=model.dtype)
    width, needed = (part.config[family.width] for part in (network, model.denoiser))
    if width != needed:
        raise UserError(
            f"sampling.control.controlnet={path} belongs to another model: its {family.width} is {width}, and that of "
            f"the {model.denoiser_name} {needed}"
        )
    network.requires_grad_(False).eval()
    return network.to(model.device)


class ControlNetSampler(Sampler):
    """Makes pictures that follow a map for each prompt.

    Args:
        model: whose policy samples.
        network: the ControlNet.
        conditioning_scale: weight of what it adds.
        map_of: gives the map of a prompt id, RGB.
        call: as for `Sampler`.
    """

    def __init__(
        self,
        model: ModelAdapter,
        network: Any,
        conditioning_scale: float,
        map_of: Callable[[str], Image.Image],
        **call: Any,
    ) -> None:
        super().__init__(model, **call)
        self.family = FAMILIES[model.pipeline_class]
        self.conditioning_scale = conditioning_scale
        self.map_of = map_of
        self.pipeline = with_components(self.pipeline, self.family.pipeline, controlnet=network)
        # FLUX's pipeline gives it maps in the VAE's dtype, which is float32 where the network is not
        network.register_forward_pre_hook(_in_own_dtype, with_kwargs=True)

    def inputs(self, keys: Sequence[tuple[str, int]]) -> dict[str, Any]:
        """Return the maps, and generators for the draw by which FLUX encodes one: the same for all images of it."""
        return {
            self.family.argument: [self.map_of(prompt_id) for prompt_id, _ in keys],
            "controlnet_conditioning_scale": self.conditioning_scale,
            "generator": [keyed_generator("control", prompt_id) for prompt_id, _ in keys],
        }


def with_components(pipeline: Any, pipeline_class: str, **parts: Any) -> Any:
    """Return a pipeline of another class of the very networks of one, and of further parts.

    diffusers' own `from_pipe` would turn all of them into float32.
    """
    import diffusers

    kind = getattr(diffusers, pipeline_class)
    known = {**pipeline.config, **pipeline.components, **parts}
    names = inspect.signature(kind.__init__).parameters.keys() & known.keys()
    made = kind(**{name: known[name] for name in names})
    made.set_progress_bar_config(disable=True)
    return made


def _in_own_dtype(network: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    dtype = next(network.parameters()).dtype
    return args, kwargs | {"controlnet_cond": kwargs["controlnet_cond"].to(dtype)}
