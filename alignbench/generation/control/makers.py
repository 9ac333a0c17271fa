"""Make maps from pictures: edges and depth."""

from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from alignbench.errors import UserError
from alignbench.models.weights.component import check_part
from alignbench.reading import read_json_object

# These return relative depth that is larger for nearer points, as in the training of ControlNets; others return metres.
DEPTH_NETWORKS = ("DPTForDepthEstimation", "DepthAnythingForDepthEstimation")


class MapMaker(ABC):
    """Makes the map of a ControlNet from a picture."""

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """The settings that change its maps, as plain values."""

    @abstractmethod
    def check(self) -> None:
        """Check its settings without loading a network.

        Raises:
            UserError: a setting is missing or invalid.
        """

    @abstractmethod
    def __call__(self, picture: Image.Image, device: torch.device) -> Image.Image:
        """Return the map of an RGB picture, RGB and of the same size."""


class Canny(MapMaker):
    """White edges on black, as `alignbench.generation.control.canny` finds them.

    Args:
        low_threshold, high_threshold: strengths of edges; see `canny`.
    """

    def __init__(self, low_threshold: int, high_threshold: int) -> None:
        self.low_threshold, self.high_threshold = low_threshold, high_threshold

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that change its maps."""
        return {"canny": [self.low_threshold, self.high_threshold]}

    def check(self) -> None:
        """Check that the thresholds are in order."""
        if not 0 <= self.low_threshold <= self.high_threshold:
            raise UserError(
                f"sampling.control.maker.low_threshold={self.low_threshold} must lie between 0 and high_threshold="
                f"{self.high_threshold}"
            )

    def __call__(self, picture: Image.Image, device: torch.device) -> Image.Image:
        """Return the edges of an RGB picture."""
        from alignbench.generation.control.canny import canny

        return Image.fromarray(canny(np.asarray(picture), self.low_threshold, self.high_threshold)).convert("RGB")


class Depth(MapMaker):
    """Depth estimated by a network, from black for the farthest point to white for the nearest.

    Args:
        estimator: folder or hub id of a depth network of transformers.
        revision: commit, branch or tag on the hub.
    """

    def __init__(self, estimator: str | None, revision: str | None = None) -> None:
        self.estimator, self.revision = estimator, revision

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that change its maps."""
        return {"depth": self.estimator} | ({"revision": self.revision} if self.revision else {})

    def check(self) -> None:
        """Check that the estimator exists and returns relative depth."""
        if self.estimator is None:
            raise UserError("sampling.control.maker.estimator must be set: add a folder or hub id of a depth network")
        named = f"sampling.control.maker.estimator={self.estimator}"
        config = check_part(self.estimator, named, DEPTH_NETWORKS, self.revision)
        if config.get("depth_estimation_type", "relative") != "relative":
            raise UserError(
                f"{named} returns depth in metres, larger for farther points; choose one that returns relative depth"
            )

    @cached_property
    def _network(self) -> tuple[Any, Any]:
        from transformers import AutoImageProcessor, AutoModelForDepthEstimation

        assert self.estimator is not None
        processor_file = Path(self.estimator) / "preprocessor_config.json"
        if processor_file.is_file() and "auto_map" in read_json_object(processor_file):
            raise UserError(f"{processor_file} names code to run as auto_map; take it out, or give another estimator")
        settings: Any = {"revision": self.revision, "trust_remote_code": False}  # else a folder's code would be offered
        processor = AutoImageProcessor.from_pretrained(self.estimator, **settings)
        return processor, AutoModelForDepthEstimation.from_pretrained(self.estimator, **settings).eval()

    @torch.no_grad()
    def __call__(self, picture: Image.Image, device: torch.device) -> Image.Image:
        """Return the depth of an RGB picture, scaled to 0..255."""
        processor, network = self._network
        inputs = processor(images=picture, return_tensors="pt").to(device)
        depth = network.to(device)(**inputs).predicted_depth[None].float()
        depth = torch.nn.functional.interpolate(depth, size=picture.size[::-1], mode="bicubic")[0, 0]
        depth = depth - depth.min()
        levels = (depth / depth.max().clamp_min(torch.finfo(depth.dtype).tiny) * 255).round().byte()
        return Image.fromarray(levels.cpu().numpy()).convert("RGB")
