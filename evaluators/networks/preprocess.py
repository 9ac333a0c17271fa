"""How pictures become inputs of the evaluators: the published pixel pipelines and their differentiable counterparts."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from alignbench.errors import UserError
from alignbench.evaluator import Preprocess
from alignbench.former_names import former_class_name
from alignbench.images import rgb

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # openai/CLIP, clip.py, _transform
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIGLIP_MEAN = SIGLIP_STD = (0.5, 0.5, 0.5)  # preprocessor_config.json of google/siglip-so400m-patch14-384

Resizing = Literal["antialias", "legacy_noaa"]


def square(image: Image.Image, size: int) -> Image.Image:
    """Return the picture in RGB, its short side resized to `size` by PIL's antialiased bicubic, its centre cut out."""
    image = rgb(image)
    if image.size == (size, size):
        return image
    width, height = _covering(*image.size, size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


def uint8_array(image: Image.Image, size: int) -> np.ndarray:
    """Return the squared picture as uint8, [size, size, 3]."""
    return np.asarray(square(image, size))


@dataclass(frozen=True, eq=False)
class Pictures(Preprocess):
    """Hands pictures over as they are, in RGB, to who preprocesses them itself."""

    @property
    def key(self) -> str:
        return "pictures"

    def __call__(self, images: Sequence[Image.Image]) -> list[Image.Image]:
        """Return each picture in RGB, upright, on white."""
        return [rgb(image) for image in images]


@dataclass(frozen=True, eq=False)
class SmallPictures(Preprocess):
    """Hands pictures over in RGB, their longer side brought down to `max_side` pixels by PIL's Lanczos filter."""

    max_side: int

    @property
    def key(self) -> str:
        return f"pictures_{self.max_side}_lanczos"

    def __call__(self, images: Sequence[Image.Image]) -> list[Image.Image]:
        """Return each picture, upright, on white, in its own shape."""
        found = [rgb(image) for image in images]
        for image in found:
            image.thumbnail((self.max_side, self.max_side), Image.Resampling.LANCZOS, reducing_gap=None)
        return found


class Pixels(Preprocess):
    """A pixel pipeline that can also be followed with a gradient."""

    @abstractmethod
    def differentiable(self, pixels: Tensor) -> Tensor:
        """Return what a network reads of pixels [N, 3, H, W] in 0..1, with a gradient."""


@dataclass(frozen=True, eq=False)
class ClipPixels(Pixels):
    """CLIP's pipeline: RGB, short side to `size` by PIL bicubic, centre crop, 0..1, normalise.

    Source: transformers, CLIPImageProcessorPil; openai/CLIP, clip.py, _transform.
    """

    size: int

    @property
    def key(self) -> str:
        return f"clip_{self.size}"

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """Return normalised pixels, [N, 3, size, size], float32."""
        return _normalise(_stack([uint8_array(image, self.size) for image in images]), CLIP_MEAN, CLIP_STD)

    def differentiable(self, pixels: Tensor) -> Tensor:
        """Return the same for pixels [N, 3, H, W] in 0..1 with a gradient.

        Differs from the published path where it resizes: PIL rounds to 8 bits and cuts overshoot off.
        """
        width, height = _covering(pixels.shape[-1], pixels.shape[-2], self.size)
        left, top = (width - self.size) // 2, (height - self.size) // 2
        pixels = _resize(pixels, height, width)[..., top : top + self.size, left : left + self.size]
        return _normalise(pixels, CLIP_MEAN, CLIP_STD)


@dataclass(frozen=True, eq=False)
class PaddedClipPixels(Pixels):
    """LLaVA's pipeline: RGB, borders of CLIP's mean colour to a square, then as `ClipPixels`; nothing is cut off.

    Source: load_images of clip_t5_model.py in linzhiqiu/t2v_metrics 3.0, with image_aspect_ratio pad.
    """

    size: int
    colour: ClassVar[tuple[int, int, int]] = (122, 116, 104)  # CLIP_MEAN times 255, rounded down

    @property
    def key(self) -> str:
        return f"clip_padded_{self.size}"

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """Return normalised pixels, [N, 3, size, size], float32."""
        return ClipPixels(self.size)([self._padded(rgb(image)) for image in images])

    def differentiable(self, pixels: Tensor) -> Tensor:
        """Return the same for pixels [N, 3, H, W] in 0..1 with a gradient; differs as that of `ClipPixels` does."""
        height, width = pixels.shape[-2:]
        left, top, side = self._borders(width, height)
        colour = pixels.new_tensor(self.colour).view(1, 3, 1, 1) / 255
        padded = F.pad(pixels - colour, (left, side - width - left, top, side - height - top)) + colour
        return ClipPixels(self.size).differentiable(padded)

    def _padded(self, image: Image.Image) -> Image.Image:
        left, top, side = self._borders(*image.size)
        padded = Image.new("RGB", (side, side), self.colour)
        padded.paste(image, (left, top))
        return padded

    @staticmethod
    def _borders(width: int, height: int) -> tuple[int, int, int]:
        """Return the left and the upper border, and the side of the square."""
        side = max(width, height)
        return (side - width) // 2, (side - height) // 2, side


@dataclass(frozen=True, eq=False)
class HpsPixels(Pixels):
    """HPSv2's pipeline: RGB, 0..1, long side to `size` by tensor bicubic, black borders to a square, normalise.

    Interpolation works on floats and nothing is cut off, so values may leave the range of colours a little.

    Attributes:
        size: side of the square.
        resizing: `antialias`, as tensors are resized since torchvision 0.17; `legacy_noaa`, as they were before, which
            is what tables made in such environments saw.

    Source: hpsv2/src/open_clip/transform.py of tgxs002/HPSv2, which leaves a picture whose long side is `size` already
    without borders, so that only squares of this size can be scored; here they get their borders.
    """

    size: int
    resizing: Resizing

    @property
    def key(self) -> str:
        return f"hpsv2_{self.size}_{self.resizing}"

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """Return normalised pixels, [N, 3, size, size], float32."""
        pixels = [self._square(_stack([np.asarray(rgb(image))]), self.resizing == "antialias") for image in images]
        return _normalise(torch.cat(pixels), CLIP_MEAN, CLIP_STD)

    def differentiable(self, pixels: Tensor) -> Tensor:
        """Return the same, exactly, for pixels [N, 3, H, W] in 0..1 with a gradient.

        Raises:
            TypeError: without antialiasing, where most pixels of a large image would get no gradient at all.
        """
        if self.resizing != "antialias":
            raise TypeError(f"pixels resized by {self.resizing} cannot be trained on; use preprocess=antialias")
        return _normalise(self._square(pixels, antialias=True), CLIP_MEAN, CLIP_STD)

    def _square(self, pixels: Tensor, antialias: bool) -> Tensor:
        scale = self.size / max(pixels.shape[-2:])
        height, width = (round(side * scale) for side in pixels.shape[-2:])
        left, top = (self.size - width) // 2, (self.size - height) // 2
        borders = (left, self.size - width - left, top, self.size - height - top)
        return F.pad(_resize(pixels, height, width, antialias), borders)


@dataclass(frozen=True, eq=False)
class SiglipPixels(Pixels):
    """SigLIP's pipeline: RGB, squashed to `size` x `size` by PIL bicubic whatever the shape, 0..1, normalise.

    Source: transformers, SiglipImageProcessorPil.
    """

    size: int

    @property
    def key(self) -> str:
        return f"siglip_{self.size}"

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """Return normalised pixels, [N, 3, size, size], float32."""
        return _normalise(_stack(_squashed(images, self.size)), SIGLIP_MEAN, SIGLIP_STD)

    def differentiable(self, pixels: Tensor) -> Tensor:
        """Return the same for pixels [N, 3, H, W] in 0..1 with a gradient; differs as that of `ClipPixels` does."""
        return _normalise(_resize(pixels, self.size, self.size), SIGLIP_MEAN, SIGLIP_STD)


@dataclass(frozen=True, eq=False)
class BlipPixels(Preprocess):
    """BLIP's pipeline: RGB, squashed to `size` x `size` by PIL bicubic whatever the shape, 0..1, normalise.

    Source: BLIPvqa_eval/data/__init__.py of Karine-Huang/T2I-CompBench; transformers, BlipImageProcessor.
    """

    size: int

    @property
    def key(self) -> str:
        return f"blip_{self.size}"

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """Return normalised pixels, [N, 3, size, size], float32."""
        return _normalise(_stack(_squashed(images, self.size)), CLIP_MEAN, CLIP_STD)


@dataclass(frozen=True, eq=False)
class Dinov2Pixels(Preprocess):
    """DINOv2's pipeline: RGB, short side to 256 by PIL bicubic, centre of 224 x 224, 0..1, normalise.

    Source: preprocessor_config.json of facebook/dinov2-base, by BitImageProcessor of transformers.
    """

    resized: ClassVar[int] = 256
    size: ClassVar[int] = 224

    @property
    def key(self) -> str:
        return f"dinov2_{self.resized}_{self.size}"

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """Return normalised pixels, [N, 3, 224, 224], float32."""
        border = (self.resized - self.size) // 2
        inner = slice(border, border + self.size)
        pixels = _stack([uint8_array(image, self.resized)[inner, inner] for image in images])
        return _normalise(pixels, IMAGENET_MEAN, IMAGENET_STD)


@dataclass(frozen=True, eq=False)
class QwenPixels(Pixels):
    """Qwen2-VL's pipeline at one area: RGB, sides to multiples of `factor` by PIL bicubic, 0..1, normalise.

    The shape is kept as nearly as the multiples allow, so pictures of several shapes have inputs of several sizes.

    Attributes:
        area: pixels that the result has, more or less: both the smallest and the largest allowed.
        factor: what either side is a multiple of.

    Source: fetch_image and smart_resize in hpsv3/dataset/utils.py of MizzenAI/HPSv3, with min_pixels = max_pixels.
    """

    area: int
    factor: int

    @property
    def key(self) -> str:
        return f"qwen2_vl_{self.area}_{self.factor}"

    def __call__(self, images: Sequence[Image.Image]) -> list[Tensor]:
        """Return normalised pixels of each picture, [3, H, W], float32."""
        resized = [rgb(image).resize(self.size(*image.size), Image.Resampling.BICUBIC) for image in images]
        return [_normalise(_stack([np.asarray(image)]), CLIP_MEAN, CLIP_STD)[0] for image in resized]

    def differentiable(self, pixels: Tensor) -> Tensor:
        """Return the same for pixels [N, 3, H, W] in 0..1 with a gradient; differs as that of `ClipPixels` does."""
        width, height = self.size(pixels.shape[-1], pixels.shape[-2])
        return _normalise(_resize(pixels, height, width), CLIP_MEAN, CLIP_STD)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return width and height of a picture after resizing.

        A picture whose rounded sides have the wanted area is not scaled; one that would be larger or smaller is scaled
        to that area, and then its sides are rounded down or up, which may miss the area by a few rows of patches.
        """
        sides = width, height
        multiples = [max(1, round(side / self.factor)) for side in sides]
        rounded_area = math.prod(multiples) * self.factor**2
        # in this order of operations: where a scaled side is a multiple already, the last bit decides
        if rounded_area > self.area:
            shrinking = math.sqrt(width * height / self.area)
            multiples = [math.floor(side / shrinking / self.factor) for side in sides]
        elif rounded_area < self.area:
            growing = math.sqrt(self.area / (width * height))
            multiples = [math.ceil(side * growing / self.factor) for side in sides]
        return multiples[0] * self.factor, multiples[1] * self.factor


def pixels_values(pixels: Pixels) -> dict[str, Any]:
    """Return what `pixels_from` builds the same pipeline of, as JSON."""
    return {"kind": former_class_name(type(pixels)), **asdict(cast(Any, pixels))}


def pixels_from(values: Mapping[str, Any]) -> Pixels:
    """Return the pipeline that `pixels_values` described.

    Raises:
        UserError: there is none of that kind.
    """
    kinds = {former_class_name(kind): kind for kind in (ClipPixels, HpsPixels, SiglipPixels)}
    if values["kind"] not in kinds:
        raise UserError(f"preprocessing {values['kind']} is unknown; available: {', '.join(kinds)}")
    return kinds[values["kind"]](**{key: value for key, value in values.items() if key != "kind"})


def _covering(width: int, height: int, size: int) -> tuple[int, int]:
    """Return width and height scaled so that the short side is `size`."""
    short = min(width, height)
    return int(size * width / short), int(size * height / short)


def _squashed(images: Sequence[Image.Image], size: int) -> list[np.ndarray]:
    """Return pictures of `size` x `size`, [size, size, 3] in 8 bits, whatever their shapes were."""
    return [np.asarray(rgb(image).resize((size, size), Image.Resampling.BICUBIC)) for image in images]


def _stack(arrays: Sequence[np.ndarray]) -> Tensor:
    """Return pictures [H, W, 3] in 8 bits as pixels [N, 3, H, W] in 0..1, float32."""
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255.0


def _resize(pixels: Tensor, height: int, width: int, antialias: bool = True) -> Tensor:
    if pixels.shape[-2:] == (height, width):
        return pixels
    return F.interpolate(pixels, size=(height, width), mode="bicubic", antialias=antialias, align_corners=False)


def _normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    shift, scale = (pixels.new_tensor(values).view(1, 3, 1, 1) for values in (mean, std))
    return (pixels - shift) / scale
