"""Which samples each training step takes, on any number of processes: in epochs, or in a given mix of labels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import floor
from typing import Protocol

import torch

from alignbench.context import keyed_generator
from alignbench.data.storage.read_blocks import Blocks
from alignbench.errors import UserError

SampleRef = tuple[int, int]  # index that keys the draws of a sample, position in the view
Visit = tuple[int, int]  # position in the view, how often the position was visited before


@dataclass(frozen=True)
class Mix:
    """The proportion in which desirable and undesirable samples are shown.

    Attributes:
        desirable: the label of each sample of the view.
        share: share of desirable samples among those shown, between 0 and 1.
    """

    desirable: Sequence[bool]
    share: float


class Order(Protocol):
    """An endless sequence of visits to the positions of a view."""

    def between(self, start: int, stop: int) -> list[Visit]:
        """Return entries `start` to `stop` (exclusive)."""
        ...


class StepSampler:
    """Yields the samples of each step, for one process. Endless.

    The run has one stream of samples. Each step takes the next `total_batch_size` of them, and each process takes an
    equal, consecutive share of the step. The stream shows each sample of the view once in an epoch. The order is new
    in each epoch and depends on seed and epoch alone. `group_size` consecutive samples have the same position: they
    form a group with one prompt.

    With a `mix` the stream draws desirable and undesirable samples separately, each in epochs of their own. So no
    sample is shown again before all others of its label. The number of desirable samples in a step is its share
    rounded so that the sum over steps is right; their order within the step is random. The published code draws with
    replacement: the expectation is the same, but some samples are left out and the share varies between steps.

    Args:
        size: number of samples in the view.
        start_step: first step to yield; after an interruption, the step to resume from.
        mix: labels and the wanted proportion; None ignores labels.
        blocks: which samples are read together; an epoch then shuffles them as described in `Blocks`. None shuffles
            all samples.
        order: an order that replaces the one described above, `mix` and `blocks` included.
        num_draws: number of fixed draws that the visits to a sample go through in turn. The index of a sample is then
            `fixed_index` instead of its place in the stream. None: every visit has draws of its own.

    Raises:
        UserError: the batch cannot be split into equal shares of whole groups, or the view lacks one of the labels of
            the mix.
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
        num_draws: int | None = None,
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
        self.num_draws = num_draws
        self.stream = order or (
            Epochs(range(size), blocks, seed, "order") if mix is None else MixedOrder(mix, blocks, seed)
        )

    def __iter__(self) -> Iterator[list[SampleRef]]:
        step = self.start_step
        while True:
            yield self.samples(step)
            step += 1

    def samples(self, step: int) -> list[SampleRef]:
        """Return the samples that this process takes in one step."""
        num_groups = self.total_batch_size // self.group_size
        visits = self.stream.between(step * num_groups, (step + 1) * num_groups)
        first = step * self.total_batch_size
        samples = []
        for number in range(self.offset, self.offset + self.share):
            position, visit = visits[number // self.group_size]
            index = first + number if self.num_draws is None else fixed_index(position, visit, self.num_draws)
            samples.append((index, position))
        return samples


def fixed_index(position: int, visit: int, num_draws: int) -> int:
    """Return the index that keys the draws of a visit where each sample has `num_draws` fixed draws, taken in turn."""
    return position * num_draws + visit % num_draws


class Epochs:
    """Each position once in an epoch, endlessly. The order depends on the key and the epoch alone."""

    def __init__(self, positions: Sequence[int], blocks: Blocks | None, *key: int | str) -> None:
        self.positions = positions
        self.blocks = None if blocks is None else blocks.rows(positions)
        self.key = key
        self._order: tuple[int, list[int]] = (-1, [])  # epoch and its permutation

    def between(self, start: int, stop: int) -> list[Visit]:
        """Return entries `start` to `stop` (exclusive) of the sequence."""
        return [self._visit(number) for number in range(start, stop)]

    def _visit(self, number: int) -> Visit:
        epoch, rank = divmod(number, len(self.positions))
        if self._order[0] != epoch:
            generator = keyed_generator(*self.key, epoch)
            if self.blocks is None:
                self._order = (epoch, torch.randperm(len(self.positions), generator=generator).tolist())
            else:
                self._order = (epoch, self.blocks.shuffled(generator))
        return self.positions[self._order[1][rank]], epoch


class MixedOrder:
    """Desirable and undesirable positions in a given proportion, endlessly, each label in epochs of its own."""

    def __init__(self, mix: Mix, blocks: Blocks | None, seed: int | str) -> None:
        desirable = [position for position, label in enumerate(mix.desirable) if label]
        undesirable = [position for position, label in enumerate(mix.desirable) if not label]
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

    def between(self, start: int, stop: int) -> list[Visit]:
        """Return entries `start` to `stop` (exclusive): a fixed number of desirable ones, in random order."""
        first, last = floor(start * self.share), floor(stop * self.share)  # number of desirable entries before each
        entries = self.desirable.between(first, last) + self.undesirable.between(start - first, stop - last)
        order = torch.randperm(len(entries), generator=keyed_generator(self.seed, "mix", start))
        return [entries[number] for number in order.tolist()]
