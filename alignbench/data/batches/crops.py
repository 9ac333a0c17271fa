"""Which part of a training image is seen, and at which size: resolution, crop, mirroring and aspect buckets."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf

from alignbench.context import keyed_generator
from alignbench.crop import CropSpec, Size
from alignbench.data.batches.aspect_buckets import check_buckets, standard_buckets
from alignbench.errors import UserError
from alignbench.models.latents import LatentSpace
from alignbench.settings.train import Crop


@dataclass(frozen=True)
class CropPolicy:
    """How the images of a training are cut; see `alignbench.settings.train`.

    Attributes:
        sizes: what images are cut to: the model's square, or aspect buckets.
        crop: whether the centre is cut out, or a part drawn anew at each visit.
        random_flip: whether half of all visits see the image mirrored.
        crops_per_image: in how many places an image is cut, the same for all; None for any.
        true_size: whether conditioning tells the size that images came in, and what was cut off.
    """

    sizes: tuple[Size, ...]
    crop: Crop = "centre"
    random_flip: bool = False
    crops_per_image: int | None = None
    true_size: bool = False

    @classmethod
    def of(cls, train: DictConfig, model: LatentSpace) -> "CropPolicy":
        """Return what a `train` node asks for.

        Raises:
            UserError: a bucket does not fit the model.
        """
        buckets = train.aspect_ratio_buckets
        if buckets is None:
            sizes = ((model.resolution, model.resolution),)
        elif buckets == "auto":
            sizes = standard_buckets(model.resolution, model.side_multiple, model.longest_side)
        else:
            sizes = tuple((height, width) for height, width in cast(list[Size], OmegaConf.to_object(buckets)))
            check_buckets(sizes, model)
        told = train.size_conditioning == "true_size"
        return cls(sizes, train.crop, train.random_flip, train.crops_per_image, told)

    @classmethod
    def square(cls, side: int) -> "CropPolicy":
        """Return what is cut out unless anything is asked for: the centre."""
        return cls(((side, side),))

    @property
    def has_buckets(self) -> bool:
        """Whether images may be cut to several sizes."""
        return len(self.sizes) > 1

    def draw(self, size: Size, seed: int | str, index: int) -> CropSpec:
        """Return how the images of a sample are cut at a visit, by its global index: both of a pair alike."""
        if self.crop == "centre" and not self.random_flip:
            return CropSpec(size)
        generator = keyed_generator(seed, "sample", index, "cut")
        mirror, top, left = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        place = None
        if self.crop == "random":
            number = self.crops_per_image
            place = (top, left) if number is None else _spread(int(top * number))
        return CropSpec(size, place, self.random_flip and mirror < 0.5)

    @property
    def are_endless(self) -> bool:
        """Whether images are cut in any place, not in one of a few."""
        return self.crop == "random" and self.crops_per_image is None

    def all(self, size: Size) -> list[CropSpec]:
        """Return every cut that may be drawn, unless they are endless."""
        assert not self.are_endless
        places = [None] if self.crop == "centre" else [_spread(number) for number in range(self.crops_per_image or 0)]
        flips = (False, True) if self.random_flip else (False,)
        return [CropSpec(size, place, flipped) for place in places for flipped in flips]


def check_cuts(train: dict[str, Any]) -> None:
    """Refuse values of a `train` node that contradict each other, whatever the model.

    Raises:
        UserError: naming the settings and the way out.
    """
    number, buckets = train["crops_per_image"], train["aspect_ratio_buckets"]
    if number is not None and train["crop"] != "random":
        raise UserError(f"train.crops_per_image={number} is for train.crop=random; train.crop=centre is one place")
    if buckets is None:
        return
    total, micro = train["total_batch_size"], train["micro_batch_size"]
    if total % micro:
        raise UserError(
            f"train.aspect_ratio_buckets needs whole micro-batches of one size, and train.micro_batch_size={micro} "
            f"does not divide train.total_batch_size={total}; choose one that does"
        )
    aspects: dict[float, list[int]] = {}
    for height, width in () if buckets == "auto" else buckets:
        other = aspects.setdefault(height / width, [height, width])
        if other != [height, width]:
            raise UserError(
                f"train.aspect_ratio_buckets has two sizes of one aspect, {other} and {[height, width]}; choose one"
            )


def _spread(number: int) -> tuple[float, float]:
    """Return a place, 0..1 each way; those of the numbers from 0 on lie evenly, however many they are.

    Source: Halton's sequence in bases 2 and 3, from its first point on.
    """
    return _reversed_digits(number + 1, 2), _reversed_digits(number + 1, 3)


def _reversed_digits(number: int, base: int) -> float:
    value, share = 0.0, 1.0 / base
    while number:
        number, digit = divmod(number, base)
        value += digit * share
        share /= base
    return value
