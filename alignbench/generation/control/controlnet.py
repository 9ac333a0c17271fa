"""Sample by diffusers' ControlNet pipelines with the networks of a model."""

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
    """The classes that diffusers has for the ControlNets of one family.

    Attributes:
        pipeline: class of the pipeline that samples with a ControlNet.
        network: class of the ControlNets.
        argument: argument of the pipeline's call that takes the maps.
        width: key of the networks' configuration that tells ControlNets of different models apart.
        scheduler: the only scheduler that the pipeline works with; None if it works with all.
    """

    pipeline: str
    network: str
    argument: str
    width: str
    scheduler: str | None = None


# By the class of the pipeline without a ControlNet. Stable Diffusion 3 is left out: its pipeline encodes each map with
# an unseeded random draw, so images could not be reproduced.
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
        scheduler="FlowMatchEulerDiscrete",  # the pipeline passes sigmas to the scheduler, which others do not take
    ),
}


def check_family(pipeline_class: str, model: str, scheduler: str | None) -> None:
    """Refuse a family without ControlNets, and a scheduler that its ControlNet pipeline cannot take.

    Args:
        pipeline_class: class of the model's pipeline without a ControlNet.
        model: name of the model, for the message.
        scheduler: value of `sampling.scheduler`.

    Raises:
        UserError: the message names the choices that work.
    """
    if pipeline_class not in FAMILIES:
        raise UserError(
            f"model={model} cannot be sampled with a ControlNet: diffusers' pipeline of its family encodes maps with "
            "an unseeded random draw, so images could not be reproduced; choose a model of Stable Diffusion 1.5, XL "
            "or FLUX"
        )
    only = FAMILIES[pipeline_class].scheduler
    if only is not None and scheduler not in (None, only):
        raise UserError(
            f"sampling.scheduler={scheduler} does not work with a ControlNet on model={model}; leave it out, or choose "
            f"{only}"
        )


def check_controlnet(path: str, pipeline_class: str, revision: str | None = None) -> None:
    """Refuse a ControlNet that does not exist or is of another family than a pipeline.

    Args:
        path: folder or hub id.
        revision: commit, branch or tag on the hub.

    Raises:
        UserError: the message says what was found and what was expected.
    """
    check_part(path, f"sampling.control.controlnet={path}", [FAMILIES[pipeline_class].network], revision)


def load_controlnet(path: str, model: ModelAdapter, revision: str | None = None) -> Any:
    """Return a ControlNet for a model, on the model's device and in its dtype.

    Raises:
        UserError: the ControlNet was trained for another model of the same class.
    """
    import diffusers

    family = FAMILIES[model.pipeline_class]
    network = getattr(diffusers, family.network).from_pretrained(path, revision=revision, torch_dtype=model.dtype)
    width, needed = (one.config[family.width] for one in (network, model.denoiser))
    if width != needed:
        raise UserError(
            f"sampling.control.controlnet={path} belongs to another model: its {family.width} is {width}, but that of "
            f"the {model.denoiser_name} is {needed}"
        )
    network.requires_grad_(False).eval()
    return network.to(model.device)


class ControlNetSampler(Sampler):
    """Makes images that follow a map for each prompt.

    Args:
        model: the model whose policy samples.
        network: the ControlNet.
        conditioning_scale: weight of its output.
        map_of: returns the map of a prompt id, RGB.
        call: arguments of `Sampler`.
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
        # FLUX's pipeline passes maps in the dtype of the VAE, float32, even if the network has another one
        network.register_forward_pre_hook(_in_own_dtype, with_kwargs=True)

    def inputs(self, keys: Sequence[tuple[str, int]]) -> dict[str, Any]:
        """Return the maps, and the generators with which FLUX encodes them, one for each prompt id."""
        return {
            self.family.argument: [self.map_of(prompt_id) for prompt_id, _ in keys],
            "controlnet_conditioning_scale": self.conditioning_scale,
            "generator": [keyed_generator("control", prompt_id) for prompt_id, _ in keys],
        }


def with_components(pipeline: Any, pipeline_class: str, **components: Any) -> Any:
    """Return a pipeline of another class with the same networks and further components.

    diffusers' own `from_pipe` would convert all networks to float32.
    """
    import diffusers

    kind = getattr(diffusers, pipeline_class)
    known = {**pipeline.config, **pipeline.components, **components}
    names = inspect.signature(kind.__init__).parameters.keys() & known.keys()
    made = kind(**{name: known[name] for name in names})
    made.set_progress_bar_config(disable=True)
    return made


def _in_own_dtype(network: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    dtype = next(network.parameters()).dtype
    return args, kwargs | {"controlnet_cond": kwargs["controlnet_cond"].to(dtype)}
