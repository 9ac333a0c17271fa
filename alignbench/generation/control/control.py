"""Sampling under the control of a map for each prompt: which maps, which ControlNet, how strongly."""

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
    """What a ControlNet is shown of each prompt, and how strongly it is followed.

    Args:
        controlnet: folder or hub id of its weights.
        revision: commit, branch or tag on the hub.
        conditioning_scale: weight of what it adds to the network; 1 as it was trained.
        images: folder or list of maps by prompt id, as `pictures_by_prompt` reads them; square.
        pictures: the same of pictures of any shape, of which `maker` makes maps; their middle square is taken.
        maker: makes them.

    Raises:
        UserError: if no ControlNet is named, not exactly one source is given, or it cannot be read.
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
                "sampling.control.controlnet must be set: none is known for this model; add a folder or hub id of a "
                "ControlNet for these weights"
            )
        if not isinstance(conditioning_scale, int | float) or conditioning_scale <= 0:
            raise UserError(f"sampling.control.conditioning_scale={conditioning_scale} must be a number above 0")
        if (images is None) == (pictures is None):
            raise UserError(
                "sampling.control needs one source of maps: add sampling.control.pictures=FOLDER for pictures that "
                "maps are made of, or sampling.control.images=FOLDER for maps as they are"
            )
        self.controlnet, self.revision, self.conditioning_scale = controlnet, revision, float(conditioning_scale)
        self.maker = None if pictures is None else maker
        self.key = "sampling.control.images" if pictures is None else "sampling.control.pictures"
        self.path = str(pictures or images)
        self.files = pictures_by_prompt(Path(self.path).expanduser(), self.key)

    def check(self, family: type[ModelAdapter], prompts: PromptSet) -> None:
        """Refuse what cannot work, before anything heavy loads.

        Args:
            family: the adapter of the model.
            prompts: all of them need a map.

        Raises:
            UserError: naming what is missing, unfit or unknown.
        """
        check_controlnet(self.controlnet, family, self.revision)
        refuse_prompts_without(self.files, prompts, self.key, self.path)
        if self.maker is not None:
            self.maker.check()

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What images under this control depend on, as plain values: part of a sampling's hash and of its record."""
        values: dict[str, Any] = {"controlnet": self.controlnet, "conditioning_scale": self.conditioning_scale}
        if self.revision is not None:
            values["revision"] = self.revision
        if Path(self.controlnet).is_dir():  # whose content may change under its name
            weights = [file for file in sorted(Path(self.controlnet).iterdir()) if file.name.endswith(TENSOR_FILES)]
            values["sha256"] = hashlib.sha256("".join(map(file_digest, weights)).encode()).hexdigest()
        if self.maker is not None:
            values["maps_made_by"] = self.maker.identity
        return values | {"pictures_sha256": digest(self.files)}

    def sampler(self, model: ModelAdapter, cache: Path, **call: Any) -> ControlNetSampler:
        """Return what makes images under this control.

        Args:
            cache: where maps that are made are kept, for other runs and for eyes.
            call: as for `Sampler`.
        """
        network = load_controlnet(self.controlnet, model, self.revision)
        map_of = partial(self.map_of, side=call.get("resolution", model.resolution), device=model.device, cache=cache)
        return ControlNetSampler(model, network, self.conditioning_scale, map_of, **call)

    def map_of(self, prompt_id: str, side: int, device: torch.device, cache: Path) -> Image.Image:
        """Return the map of a prompt, made if need be, as an RGB picture.

        Args:
            side: of the images, and so of a map that is made, in pixels.
            device: where a network that makes maps works.
            cache: where they are kept.

        Raises:
            UserError: if its file is damaged, or a given map is not square.
        """
        file = self.files[prompt_id]
        if self.maker is None:
            given = opened(file).convert("RGB")
            if given.width != given.height:
                raise UserError(
                    f"{file} is {given.width} x {given.height} pixels; maps must be square, as the images are, or the "
                    "control would be distorted"
                )
            return given
        made_of = {"picture": digest({prompt_id: file}), "maker": self.maker.identity, "side": side}
        name = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]
        kept = cache / "control" / f"{prompt_id}-{name}.png"
        if not kept.exists():
            picture = ImageOps.fit(opened(file).convert("RGB"), (side, side), Image.Resampling.LANCZOS)
            write_png(kept, self.maker(picture, device))
        return opened(kept).convert("RGB")
