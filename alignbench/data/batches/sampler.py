"""Which samples each step takes, on any number of processes: epochs, mixes of labels, orders of others."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import floor
from typing import Protocol

import torch

from alignbench.context import keyed_generator
from alignbench.data.storage.read_blocks import Blocks
from alignbench.errors import UserError

SampleRef = tuple[int, int]  # global sample index, position in the view


@dataclass(frozen=True)
class Mix:
    """In which proportion desirable and undesirable samples are shown.

    Attributes:
        desirable: the label of each sample of the view.
        share: share of desirable samples in what is shown, between 0 and 1.
    """

    desirable: Sequence[bool]
    share: float


class Order(Protocol):
    """Positions of a view, without end."""

    def between(self, start: int, stop: int) -> list[int]:
        """Return entries `start` to `stop` (exclusive)."""
        ...


class StepSampler:
    """Says which samples each step takes, for one process. Endless.

    The run's stream of samples is cut into steps of `total_batch_size`, those into equal consecutive shares, one a
    process. The stream goes through the view once an epoch, each time in a new order, which depends on seed and epoch
    alone. `group_size` consecutive samples are at one position: a group shares its prompt.

    With a `mix` the stream goes through desirable and undesirable samples apart, each in epochs of its own, so that no
    sample is shown again before all others of its label were. Every step has its share of desirable samples, to the
    nearest that keeps the sum over steps right, at random places of the step. Drawing with replacement, as published,
    has the same expectation, but leaves samples out and lets the share of a step vary.

    Args:
        size: number of samples in the view.
        start_step: first step to give, to go on after an interruption.
        mix: labels and the wanted proportion; None shows the view as it is.
        blocks: which samples are read together; an epoch then shuffles them as `Blocks` says. None shuffles all.
        order: another order of positions, which has to see to mix and blocks itself.

    Raises:
        UserError: the batch cannot be split evenly over the processes, in whole groups; or the mix wants a label that
            the view lacks.
    """

    def __init__(
        self,
        size: int,
        total_batch_size: int,
        group_size: int,
        seed: int | str,
        rank: int,
        num_processes: int,
        start_step: int = 0,
        mix: Mix | None = None,
        blocks: Blocks | None = None,
        order: Order | None = None,
    ) -> None:
        if size < 1:
            raise UserError("the training data are empty")
        if total_batch_size % (num_processes * group_size):
            groups = f" in groups of {group_size}" if group_size > 1 else ""
            raise UserError(
                f"train.total_batch_size={total_batch_size} cannot be split evenly over {num_processes} processes"
                f"{groups}; choose a multiple of {num_processes * group_size}"
            )
        self.total_batch_size = total_batch_size
        self.group_size = group_size
        self.seed = seed
        self.share = total_batch_size // num_processes
        self.offset = rank * self.share
        self.start_step = start_step
        self.stream = order or (Epochs(range(size), blocks, seed, "order") if mix is None else MixedOrder(mix, blocks, seed))

    def __iter__(self) -> Iterator[list[SampleRef]]:
        step = self.start_step
        while True:
            yield self.places(step)
            step += 1

    def places(self, step: int) -> list[SampleRef]:
        """Return this process's samples of one step."""
        num_groups = self.total_batch_size // self.group_size
        positions = self.stream.between(step * num_groups, (step + 1) * num_groups)
        first = step * self.total_batch_size
        own = range(self.offset, self.offset + self.share)
        return [(first + place, positions[place // self.group_size]) for place in own]


class Epochs:
    """Positions without end: all of them once an epoch, in an order that depends on the key and the epoch alone."""

    def __init__(self, positions: Sequence[int], blocks: Blocks | None, *key: int | str) -> None:
        self.positions = positions
        self.blocks = None if blocks is None else blocks.rows(positions)
        self.key = key
        self._order: tuple[int, list[int]] = (-1, [])  # epoch and its permutation

    def between(self, start: int, stop: int) -> list[int]:
        """Return entries `start` to `stop` (exclusive) of the stream."""
        return [self._position(number) for number in range(start, stop)]

    def _position(self, number: int) -> int:
        epoch, place = divmod(number, len(self.positions))
        if self._order[0] != epoch:
            generator = keyed_generator(*self.key, epoch)
            if self.blocks is None:
                self._order = (epoch, torch.randperm(len(self.positions), generator=generator).tolist())
            else:
                self._order = (epoch, self.blocks.shuffled(generator))
        return self.positions[self._order[1][place]]


class MixedOrder:
    """Desirable and undesirable positions without end, each in epochs of its own."""

    def __init__(self, mix: Mix, blocks: Blocks | None, seed: int | str) -> None:
        desirable = [position for position, wanted in enumerate(mix.desirable) if wanted]
        undesirable = [position for position, wanted in enumerate(mix.desirable) if not wanted]
        if not desirable or not undesirable:
            raise UserError(
                f"method.desirable_share={mix.share} needs images of both labels, and the training data have "
                f"{len(desirable)} desirable and {len(undesirable)} undesirable ones; set method.desirable_share=null"
            )
        blocks = None if blocks is None else blocks.halved()
        self.desirable = Epochs(desirable, blocks, seed, "desirable")
        self.undesirable = Epochs(undesirable, blocks, seed, "undesirable")
        self.share = mix.share
        self.seed = seed

    def between(self, start: int, stop: int) -> list[int]:
        """Return entries `start` to `stop` (exclusive): how many are desirable is fixed, their places are drawn."""
        first, last = floor(start * self.share), floor(stop * self.share)  # desirable entries so far, and in the end
        entries = self.desirable.between(first, last) + self.undesirable.between(start - first, stop - last)
        order = torch.randperm(len(entries), generator=keyed_generator(self.seed, "mix", start))
        return [entries[place] for place in order.tolist()]
