"""Sample by diffusers' ControlNet pipelines with the networks of a model."""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from alignbench.context import keyed_generator
from alignbench.errors import UserError
from alignbench.generation.pipeline_sampler import Sampler
from alignbench.models.adapter import ModelAdapter
from alignbench.models.find_families import FAMILIES
from alignbench.models.weights.component import check_part
from alignbench.models.weights.variants import only_variant


def check_family(family: type[ModelAdapter], model: str, scheduler: str | None) -> None:
    """Refuse a family without ControlNets, and a scheduler that its ControlNet pipeline cannot take.

    Args:
        family: the adapter of the model.
        model: its name, for the sentence.
        scheduler: what is asked for by `sampling.scheduler`.

    Raises:
        UserError: the message names the choices that work.
    """
    if family.controlnet is None:
        able = [one.pipeline_class for one in FAMILIES.values() if one.controlnet is not None]
        raise UserError(
            f"model={model} is not sampled by a ControlNet: {family.no_controlnet}; choose a model that is a "
            f"{' or '.join(able)}"
        )
    only = family.controlnet.scheduler
    if only is not None and scheduler not in (None, only):
        raise UserError(
            f"sampling.scheduler={scheduler} does not work with a ControlNet on model={model}; leave it out, or choose "
            f"{only}"
        )


def check_controlnet(path: str, family: type[ModelAdapter], revision: str | None = None) -> None:
    """Refuse a ControlNet that does not exist or is of another family than the model.

    Args:
        path: folder or hub id.
        family: the adapter of the model, which `check_family` did not refuse.
        revision: commit, branch or tag on the hub.

    Raises:
        UserError: the message says what was found and what was expected.
    """
    assert family.controlnet is not None
    check_part(path, f"sampling.control.controlnet={path}", [family.controlnet.network], revision)


def load_controlnet(path: str, model: ModelAdapter, revision: str | None = None) -> Any:
    """Return a ControlNet for a model, on the model's device and in its dtype.

    Raises:
        UserError: the ControlNet was trained for another model of the same class.
    """
    import diffusers

    support = model.controlnet
    assert support is not None
    network = getattr(diffusers, support.network).from_pretrained(
        path, revision=revision, torch_dtype=model.dtype, variant=only_variant(Path(path))
    )
    width, needed = (part.config[support.width] for part in (network, model.denoiser))
    if width != needed:
        raise UserError(
            f"sampling.control.controlnet={path} belongs to another model: its {support.width} is {width}, but that of "
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
        assert model.controlnet is not None
        self.support = model.controlnet
        self.conditioning_scale = conditioning_scale
        self.map_of = map_of
        self.pipeline = with_components(self.pipeline, self.support.pipeline, controlnet=network)
        # a pipeline may give it maps in the VAE's dtype, which is float32 where the network is not
        network.register_forward_pre_hook(_in_own_dtype, with_kwargs=True)

    def inputs(self, keys: Sequence[tuple[str, int]]) -> dict[str, Any]:
        """Return the maps, and the generators with which a pipeline may encode them, one for each prompt id."""
        return {
            self.support.argument: [self.map_of(prompt_id) for prompt_id, _ in keys],
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
