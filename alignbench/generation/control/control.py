"""Which ControlNet guides sampling, how strongly, and by which map for each prompt."""

import hashlib
import json
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps

from alignbench.data.prompts import PromptSet
from alignbench.errors import UserError
from alignbench.files import file_digest, write_png
from alignbench.generation.control.controlnet import ControlNetSampler, check_controlnet, load_controlnet
from alignbench.generation.control.makers import MapMaker
from alignbench.generation.control.pictures import digest, pictures_by_prompt, refuse_prompts_without
from alignbench.images import opened
from alignbench.models.adapter import ModelAdapter
from alignbench.models.weights.state_dicts import TENSOR_FILES


class Control:
    """A ControlNet, its weight, and the map of each prompt.

    Args:
        controlnet: folder or hub id of its weights.
        revision: commit, branch or tag on the hub.
        conditioning_scale: weight of the ControlNet's output; 1 as in its training.
        images: folder or list of square maps by prompt id; see `pictures_by_prompt`.
        pictures: folder or list of pictures by prompt id; `maker` makes a map from the centre square of each.
        maker: makes maps from pictures.

    Raises:
        UserError: no ControlNet is given, not exactly one of `images` and `pictures` is given, or it cannot be read.
    """

    def __init__(
        self,
        controlnet: str | None,
        revision: str | None,
        conditioning_scale: float,
        images: str | None,
        pictures: str | None,
        maker: MapMaker,
    ) -> None:
        if controlnet is None:
            raise UserError(
                "sampling.control.controlnet must be set, because this model has no default; add a folder or hub id of "
                "a ControlNet for these weights"
            )
        if not isinstance(conditioning_scale, int | float) or conditioning_scale <= 0:
            raise UserError(f"sampling.control.conditioning_scale={conditioning_scale} must be a number above 0")
        if (images is None) == (pictures is None):
            raise UserError(
                "sampling.control needs one source of maps: add sampling.control.pictures=FOLDER to make maps from "
                "pictures, or sampling.control.images=FOLDER to use given maps"
            )
        self.controlnet, self.revision, self.conditioning_scale = controlnet, revision, float(conditioning_scale)
        self.maker = None if pictures is None else maker
        self.key = "sampling.control.images" if pictures is None else "sampling.control.pictures"
        self.path = str(pictures or images)
        self.files = pictures_by_prompt(Path(self.path).expanduser(), self.key)

    def check(self, family: type[ModelAdapter], prompts: PromptSet) -> None:
        """Check everything that can be checked before any network is loaded.

        Args:
            family: the adapter class of the model.
            prompts: prompts to sample; each needs a map.

        Raises:
            UserError: the ControlNet, a map or the maker is missing, or does not fit.
        """
        check_controlnet(self.controlnet, family, self.revision)
        refuse_prompts_without(self.files, prompts, self.key, self.path)
        if self.maker is not None:
            self.maker.check()

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All settings that change an image, as plain values: part of a sampling's hash and of its record."""
        values: dict[str, Any] = {"controlnet": self.controlnet, "conditioning_scale": self.conditioning_scale}
        if self.revision is not None:
            values["revision"] = self.revision
        if Path(self.controlnet).is_dir():  # its content may change while its name stays
            weights = [file for file in sorted(Path(self.controlnet).iterdir()) if file.name.endswith(TENSOR_FILES)]
            values["sha256"] = hashlib.sha256("".join(map(file_digest, weights)).encode()).hexdigest()
        if self.maker is not None:
            values["maps_made_by"] = self.maker.identity
        return values | {"pictures_sha256": digest(self.files)}

    def sampler(self, model: ModelAdapter, cache: Path, **call: Any) -> ControlNetSampler:
        """Return the sampler that makes images with this ControlNet.

        Args:
            cache: folder of the maps that are made, for other runs and for inspection.
            call: arguments of `Sampler`.
        """
        network = load_controlnet(self.controlnet, model, self.revision)
        map_of = partial(self.map_of, side=call.get("resolution", model.resolution), device=model.device, cache=cache)
        return ControlNetSampler(model, network, self.conditioning_scale, map_of, **call)

    def map_of(self, prompt_id: str, side: int, device: torch.device, cache: Path) -> Image.Image:
        """Return the map of a prompt as an RGB picture; make it from the prompt's picture if there is a maker.

        Args:
            side: side of the images in pixels; maps that are made have the same side.
            device: device of a network that makes maps.
            cache: folder of the maps that are made.

        Raises:
            UserError: the file is damaged, or a given map is not square.
        """
        file = self.files[prompt_id]
        if self.maker is None:
            given = opened(file)
            if given.width != given.height:
                raise UserError(
                    f"{file} is {given.width} x {given.height} pixels; maps must be square, as the images are, "
                    "because they would be distorted otherwise"
                )
            return given
        inputs = {"picture": digest({prompt_id: file}), "maker": self.maker.identity, "side": side}
        name = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
        kept = cache / "control" / f"{prompt_id}-{name}.png"
        if not kept.exists():
            picture = ImageOps.fit(opened(file), (side, side), Image.Resampling.LANCZOS)
            write_png(kept, self.maker(picture, device))
        return opened(kept)
