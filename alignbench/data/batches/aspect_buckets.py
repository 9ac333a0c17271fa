"""Aspect buckets: to which of a few sizes each sample is cut, and an order in which a micro-batch holds one of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import count
from math import ceil, gcd, log

import numpy as np
import torch

from alignbench.context import keyed_generator
from alignbench.crop import Size
from alignbench.data.batches.sampler import Epochs, Mix, MixedOrder, Order
from alignbench.data.source import DataSource, PromptSample, images_of
from alignbench.errors import UserError
from alignbench.models.latents import LatentSpace

STEP = 64  # pixels between two sides, for models of 512 px and more


def standard_buckets(resolution: int, multiple: int, longest_side: int | None) -> tuple[Size, ...]:
    """Return sizes of at most resolution x resolution pixels with sides from half to twice the resolution.

    Sides are multiples of a step: 64, or an eighth of the resolution where that is less, or the next number that
    divides the resolution and fits the model. For each height there is the largest width, and the other way round.

    Args:
        multiple: what sides must be multiples of.
        longest_side: no side may be longer; None for no limit.

    Source: the buckets of NovelAI (2022) and kohya-ss/sd-scripts; with 1024 they reach as far as those of SDXL.
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
    """Refuse buckets that do not fit a model.

    Raises:
        UserError: a side makes no whole tokens, or is longer than the network takes.
    """
    for side in (side for size in sizes for side in size):
        model.check_resolution(side, "train.aspect_ratio_buckets: a side")
        if model.longest_side is not None and side > model.longest_side:
            raise UserError(
                f"train.aspect_ratio_buckets has a side of {side} pixels, and the model takes {model.longest_side}"
            )


@dataclass(frozen=True)
class Buckets:
    """The sizes that samples are cut to.

    Attributes:
        sizes: those that have samples.
        bucket: of each sample, as a place in `sizes`, [N].
        num_moved: samples whose own bucket was too small to fill a micro-batch.
    """

    sizes: Sequence[Size]
    bucket: np.ndarray
    num_moved: int

    @classmethod
    def of(cls, data: DataSource, view: Sequence[PromptSample], sizes: Sequence[Size], bundle: int) -> "Buckets":
        """Give each sample of a view the bucket of the nearest aspect; the two images of a pair meet in the middle.

        Buckets of fewer than `bundle` samples are closed, the smallest first, and their samples go to the nearest that
        are left: a micro-batch would show them twice.
        """
        aspects = np.array([_aspect([data.size(picture) for picture in images_of(sample)]) for sample in view])
        return cls._nearest(aspects, sizes, bundle)

    @classmethod
    def _nearest(cls, aspects: np.ndarray, sizes: Sequence[Size], bundle: int) -> "Buckets":
        largest: dict[tuple[int, int], Size] = {}  # of each aspect
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
            left = cls._divided(aspects, [size for place, size in enumerate(left.sizes) if place != smallest])
        before, after = (np.array(one.sizes)[one.bucket] for one in (first, left))
        return cls(left.sizes, left.bucket, int((before != after).any(1).sum()))

    @classmethod
    def _divided(cls, aspects: np.ndarray, sizes: Sequence[Size]) -> "Buckets":
        centres = np.array([_aspect([size]) for size in sizes])
        return cls(sizes, np.searchsorted((centres[1:] + centres[:-1]) / 2, aspects), 0)

    def size(self, position: int) -> Size:
        """Return what the sample at a position of the view is cut to."""
        return self.sizes[self.bucket[position]]

    def summary(self) -> str:
        """Say how many samples each size has."""
        counts = np.bincount(self.bucket, minlength=len(self.sizes))
        told = ", ".join(f"{h}x{w} {number}" for (h, w), number in zip(self.sizes, counts, strict=True))
        moved = f"; {self.num_moved} of them from buckets too small for a micro-batch" if self.num_moved else ""
        return f"samples by height x width: {told}{moved}"


def _aspect(sizes: Sequence[Size]) -> float:
    """Return the logarithm of the aspect, height to width: the mean of some images'."""
    return sum(log(height / width) for height, width in sizes) / len(sizes)


class Bucketed:
    """Positions of a view without end, in bundles of one bucket each.

    An epoch holds each bucket's bundles in a new order among those of the others, which depends on seed and epoch
    alone. Every bucket goes through its samples in epochs of its own. What does not fill a bundle at the end of an
    epoch is not dropped: it comes first in the bucket's next bundle. So after any number of epochs, each sample was
    shown as often as any other, but for the samples that wait.

    With a `mix` a bucket is visited, and shows desirable samples in it, as often as makes every sample's share what it
    is without buckets.

    Args:
        buckets: of each position.
        bundle: positions in a bundle.
        mix: as for `StepSampler`.
    """

    def __init__(self, buckets: Buckets, bundle: int, seed: int | str, mix: Mix | None = None) -> None:
        self.bundle = bundle
        self.seed = seed
        self.streams: list[Order] = []
        self.rates: list[Fraction] = []  # bundles an epoch
        if mix is not None:
            MixedOrder(mix, None, seed)  # refuses data of one label
        for number, (height, width) in enumerate(buckets.sizes):
            positions = np.flatnonzero(buckets.bucket == number).tolist()
            own_seed = f"{seed}/{height}x{width}"
            weight = Fraction(len(positions))
            stream: Order = Epochs(positions, None, own_seed, "order")
            if mix is not None:
                weight, share = _weight(mix, positions)
                if 0 < share < 1:
                    own_mix = Mix([mix.desirable[position] for position in positions], float(share))
                    stream = _Chosen(MixedOrder(own_mix, None, own_seed), positions)
            self.streams.append(stream)
            self.rates.append(weight / bundle)
        self._epoch: tuple[int, list[tuple[int, int]]] = (0, [])  # as `_epoch_of` returned it last

    def between(self, start: int, stop: int) -> list[int]:
        """Return entries `start` to `stop` (exclusive) of the stream; both are multiples of the bundle."""
        found = []
        for place in range(start // self.bundle, stop // self.bundle):
            bucket, number = self._bundle(place)
            found += self.streams[bucket].between(number * self.bundle, (number + 1) * self.bundle)
        return found

    def _bundle(self, place: int) -> tuple[int, int]:
        """Return the bucket of a bundle of the stream, and how many that bucket had before it."""
        first, order = self._epoch
        if not first <= place < first + len(order):
            first, order = self._epoch = self._epoch_of(place)
        return order[place - first]

    def _epoch_of(self, place: int) -> tuple[int, list[tuple[int, int]]]:
        """Return the first bundle of the epoch that a bundle is in, and what `_bundle` says of all of its bundles."""
        epoch = int(place / sum(self.rates))  # or a later one, for epochs begin with whole bundles
        while sum(self._had(epoch + 1)) <= place:
            epoch += 1
        before, after = self._had(epoch), self._had(epoch + 1)
        buckets = np.repeat(np.arange(len(before)), np.subtract(after, before))
        order = torch.randperm(len(buckets), generator=keyed_generator(self.seed, "buckets", epoch)).numpy()
        numbers = [count(number) for number in before]
        return sum(before), [(bucket, next(numbers[bucket])) for bucket in buckets[order].tolist()]

    def _had(self, epochs: int) -> list[int]:
        """Return how many bundles each bucket has in so many epochs."""
        return [int(epochs * rate) for rate in self.rates]


class _Chosen:
    """A stream of places in a list of positions, as those positions."""

    def __init__(self, stream: Order, positions: Sequence[int]) -> None:
        self.stream = stream
        self.positions = positions

    def between(self, start: int, stop: int) -> list[int]:
        return [self.positions[place] for place in self.stream.between(start, stop)]


def _weight(mix: Mix, positions: Sequence[int]) -> tuple[Fraction, Fraction]:
    """Return how many entries an epoch has of a bucket, and the share of desirable ones among them."""
    desirable, total = int(sum(mix.desirable)), len(mix.desirable)
    own = int(sum(mix.desirable[position] for position in positions))
    share = Fraction(mix.share)
    wanted = share * Fraction(own, desirable)
    weight = wanted + (1 - share) * Fraction(len(positions) - own, total - desirable)
    return weight * total, wanted / weight
