"""Which part of a training image is shown, and at which size: resolution, crop, mirroring and aspect buckets."""

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
    """How training images are cropped; see `alignbench.settings.train`.

    Attributes:
        sizes: the sizes that images are cropped to: the model's square, or aspect buckets.
        crop: `centre`, or `random` for a new crop each time an image is shown.
        random_flip: whether an image is mirrored in half of the times that it is shown.
        crops_per_image: number of positions that random crops are drawn from, the same for all images; None for any
            position.
        true_size: whether the conditioning holds the original size and the crop of each image.
    """

    sizes: tuple[Size, ...]
    crop: Crop = "centre"
    random_flip: bool = False
    crops_per_image: int | None = None
    true_size: bool = False

    @classmethod
    def of(cls, train: DictConfig, model: LatentSpace) -> "CropPolicy":
        """Return the policy of a `train` node.

        Raises:
            UserError: the model cannot take a bucket.
        """
        buckets = train.aspect_ratio_buckets
        if buckets is None:
            sizes = ((model.resolution, model.resolution),)
        elif buckets == "auto":
            sizes = standard_buckets(model.resolution, model.side_multiple, model.longest_side)
        else:
            sizes = tuple((height, width) for height, width in cast(list[Size], OmegaConf.to_object(buckets)))
            check_buckets(sizes, model)
        true_size = train.size_conditioning == "true_size"
        return cls(sizes, train.crop, train.random_flip, train.crops_per_image, true_size)

    @classmethod
    def square(cls, side: int) -> "CropPolicy":
        """Return the default policy: the centre square."""
        return cls(((side, side),))

    @property
    def has_buckets(self) -> bool:
        """Whether images are cropped to several sizes."""
        return len(self.sizes) > 1

    def draw(self, size: Size, seed: int | str, index: int) -> CropSpec:
        """Return the crop of a sample's images, drawn by its global index: one crop for both images of a pair."""
        if self.crop == "centre" and not self.random_flip:
            return CropSpec(size)
        generator = keyed_generator(seed, "sample", index, "cut")  # this key is that of version 0.1.0
        mirror, top, left = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        offset = None
        if self.crop == "random":
            number = self.crops_per_image
            offset = (top, left) if number is None else _spread(int(top * number))
        return CropSpec(size, offset, self.random_flip and mirror < 0.5)

    @property
    def has_unlimited_crops(self) -> bool:
        """Whether crops are drawn from any position, not from a few."""
        return self.crop == "random" and self.crops_per_image is None

    def all(self, size: Size) -> list[CropSpec]:
        """Return every crop that may be drawn; their number must be limited."""
        assert not self.has_unlimited_crops
        offsets = [None] if self.crop == "centre" else [_spread(number) for number in range(self.crops_per_image or 0)]
        flips = (False, True) if self.random_flip else (False,)
        return [CropSpec(size, offset, flipped) for offset in offsets for flipped in flips]


def check_crops(train: dict[str, Any]) -> None:
    """Refuse values of a `train` node that contradict each other, whatever the model.

    Raises:
        UserError: the message names the settings and their possible values.
    """
    number, buckets = train["crops_per_image"], train["aspect_ratio_buckets"]
    if number is not None and train["crop"] != "random":
        raise UserError(
            f"train.crops_per_image={number} needs train.crop=random; train.crop={train['crop']} has one crop only"
        )
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
    """Return offset number `number`, 0..1 on both axes. The first n offsets are spread evenly for every n.

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
