"""Aspect buckets: the size that each sample is cropped to, and an order in which each micro-batch has one size."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import count
from math import ceil, gcd, log

import numpy as np
import torch

from alignbench.context import keyed_generator
from alignbench.crop import Size
from alignbench.data.batches.sampler import Epochs, Mix, MixedOrder, Order, Visit
from alignbench.data.source import DataSource, PromptSample, images_of
from alignbench.errors import UserError
from alignbench.models.latents import LatentSpace

STEP = 64  # pixels between the sides of two buckets, for models of 512 px and more


def standard_buckets(resolution: int, multiple: int, longest_side: int | None) -> tuple[Size, ...]:
    """Return sizes with at most resolution x resolution pixels and sides from half to twice the resolution.

    Sides are multiples of a step. The step is the smallest number that is at least 64 (or an eighth of the resolution,
    if that is less), divides the resolution, and is a multiple of `multiple`. Each height has the largest width that
    fits, and each width the largest height.

    Args:
        multiple: the model takes sides that are multiples of this number.
        longest_side: longest side that the model takes; None for no limit.

    Source: the buckets of NovelAI (2022) and kohya-ss/sd-scripts; at 1024 they span the same aspects as SDXL's.
    """
    least = min(STEP, resolution / 8)
    step = next(n for n in range(multiple, resolution + 1, multiple) if n >= least and resolution % n == 0)
    shortest = ceil(resolution / 2 / step) * step
    longest = min(2 * resolution, longest_side or 2 * resolution) // step * step
    sizes = set[Size]()
    for height in range(shortest, longest + 1, step):
        width = min(longest, resolution**2 // height // step * step)
        if width >= shortest:
            sizes |= {(height, width), (width, height)}
    return tuple(sorted(sizes))


def check_buckets(sizes: Sequence[Size], model: LatentSpace) -> None:
    """Refuse buckets that a model cannot take.

    Raises:
        UserError: a side does not make whole tokens, or is longer than the network takes.
    """
    for side in (side for size in sizes for side in size):
        model.check_resolution(side, "train.aspect_ratio_buckets: a side")
        if model.longest_side is not None and side > model.longest_side:
            raise UserError(
                f"train.aspect_ratio_buckets has a side of {side} pixels, and the model takes {model.longest_side}"
            )


@dataclass(frozen=True)
class Buckets:
    """The sizes that samples are cropped to.

    Attributes:
        sizes: the sizes that have samples.
        bucket: index of each sample's size in `sizes`, [N].
        num_moved: number of samples that were moved because their bucket was too small to fill a micro-batch.
    """

    sizes: Sequence[Size]
    bucket: np.ndarray
    num_moved: int

    @classmethod
    def of(cls, data: DataSource, view: Sequence[PromptSample], sizes: Sequence[Size], bundle: int) -> "Buckets":
        """Give each sample of a view the bucket of the nearest aspect; a pair has the mean aspect of its two images.

        Buckets with fewer than `bundle` samples are removed, the smallest first, because a micro-batch would show a
        sample twice. Their samples move to the nearest bucket that is left.
        """
        aspects = np.array([_aspect([data.size(image) for image in images_of(sample)]) for sample in view])
        return cls._nearest(aspects, sizes, bundle)

    @classmethod
    def _nearest(cls, aspects: np.ndarray, sizes: Sequence[Size], bundle: int) -> "Buckets":
        largest: dict[tuple[int, int], Size] = {}  # the largest size of each aspect
        for size in sorted(sizes):
            largest[size[0] // gcd(*size), size[1] // gcd(*size)] = size
        known = sorted(largest.values(), key=lambda size: _aspect([size]))
        first = cls._divided(aspects, known)
        left = first
        while True:
            counts = np.bincount(left.bucket, minlength=len(left.sizes))
            smallest = int(counts.argmin())
            if counts[smallest] >= bundle or len(left.sizes) == 1:
                break
            left = cls._divided(aspects, [size for number, size in enumerate(left.sizes) if number != smallest])
        before, after = (np.array(one.sizes)[one.bucket] for one in (first, left))
        return cls(left.sizes, left.bucket, int((before != after).any(1).sum()))

    @classmethod
    def _divided(cls, aspects: np.ndarray, sizes: Sequence[Size]) -> "Buckets":
        centres = np.array([_aspect([size]) for size in sizes])
        return cls(sizes, np.searchsorted((centres[1:] + centres[:-1]) / 2, aspects), 0)

    def size(self, position: int) -> Size:
        """Return the size that the sample at a position of the view is cropped to."""
        return self.sizes[self.bucket[position]]

    def summary(self) -> str:
        """Say how many samples each size has."""
        counts = np.bincount(self.bucket, minlength=len(self.sizes))
        counted = ", ".join(f"{h}x{w} {number}" for (h, w), number in zip(self.sizes, counts, strict=True))
        moved = f"; {self.num_moved} of them moved from buckets too small for a micro-batch" if self.num_moved else ""
        return f"samples by height x width: {counted}{moved}"


def _aspect(sizes: Sequence[Size]) -> float:
    """Return the logarithm of height over width, averaged over some images."""
    return sum(log(height / width) for height, width in sizes) / len(sizes)


class BucketedOrder:
    """An endless sequence of positions in bundles; all positions of a bundle are of one bucket.

    In each epoch the bundles of all buckets are shuffled together; the order depends on seed and epoch alone. Each
    bucket goes through its samples in epochs of its own. Samples that do not fill a bundle at the end of an epoch are
    kept: they come first in the bucket's next bundle. So after any number of epochs all samples were shown equally
    often, except for those that wait for their bundle.

    With a `mix`, the number of bundles of a bucket and the share of desirable samples in it are such that each sample
    is shown as often as without buckets.

    Args:
        buckets: the bucket of each position.
        bundle: number of positions in a bundle.
        mix: see `StepSampler`.
    """

    def __init__(self, buckets: Buckets, bundle: int, seed: int | str, mix: Mix | None = None) -> None:
        self.bundle = bundle
        self.seed = seed
        self.streams: list[Order] = []
        self.rates: list[Fraction] = []  # bundles in an epoch
        if mix is not None:
            MixedOrder(mix, None, seed)  # refuses data with one label only
        for number, (height, width) in enumerate(buckets.sizes):
            positions = np.flatnonzero(buckets.bucket == number).tolist()
            own_seed = f"{seed}/{height}x{width}"
            weight = Fraction(len(positions))
            stream: Order = Epochs(positions, None, own_seed, "order")
            if mix is not None:
                weight, share = _weight(mix, positions)
                if 0 < share < 1:
                    own_mix = Mix([mix.desirable[position] for position in positions], float(share))
                    stream = _Selected(MixedOrder(own_mix, None, own_seed), positions)
            self.streams.append(stream)
            self.rates.append(weight / bundle)
        self._epoch: tuple[int, list[tuple[int, int]]] = (0, [])  # what `_epoch_of` returned last

    def between(self, start: int, stop: int) -> list[Visit]:
        """Return entries `start` to `stop` (exclusive) of the sequence; both are multiples of the bundle."""
        found = []
        for index in range(start // self.bundle, stop // self.bundle):
            bucket, number = self._bundle(index)
            found += self.streams[bucket].between(number * self.bundle, (number + 1) * self.bundle)
        return found

    def _bundle(self, index: int) -> tuple[int, int]:
        """Return the bucket of a bundle, and how many bundles of that bucket come before it."""
        first, order = self._epoch
        if not first <= index < first + len(order):
            first, order = self._epoch = self._epoch_of(index)
        return order[index - first]

    def _epoch_of(self, index: int) -> tuple[int, list[tuple[int, int]]]:
        """Return the first bundle of a bundle's epoch, and what `_bundle` returns for each bundle of that epoch."""
        epoch = int(index / sum(self.rates))  # the epoch may be a later one, because epochs hold whole bundles
        while sum(self._num_bundles(epoch + 1)) <= index:
            epoch += 1
        before, after = self._num_bundles(epoch), self._num_bundles(epoch + 1)
        buckets = np.repeat(np.arange(len(before)), np.subtract(after, before))
        order = torch.randperm(len(buckets), generator=keyed_generator(self.seed, "buckets", epoch)).numpy()
        numbers = [count(number) for number in before]
        return sum(before), [(bucket, next(numbers[bucket])) for bucket in buckets[order].tolist()]

    def _num_bundles(self, epochs: int) -> list[int]:
        """Return the number of bundles of each bucket in the first `epochs` epochs."""
        return [int(epochs * rate) for rate in self.rates]


class _Selected:
    """An order of the entries of a list of positions."""

    def __init__(self, stream: Order, positions: Sequence[int]) -> None:
        self.stream = stream
        self.positions = positions

    def between(self, start: int, stop: int) -> list[Visit]:
        return [(self.positions[number], visit) for number, visit in self.stream.between(start, stop)]


def _weight(mix: Mix, positions: Sequence[int]) -> tuple[Fraction, Fraction]:
    """Return the number of entries that an epoch has of a bucket, and the share of desirable ones among them."""
    desirable, total = int(sum(mix.desirable)), len(mix.desirable)
    own = int(sum(mix.desirable[position] for position in positions))
    share = Fraction(mix.share)
    wanted = share * Fraction(own, desirable)
    weight = wanted + (1 - share) * Fraction(len(positions) - own, total - desirable)
    return weight * total, wanted / weight
