"""Which part of the images this process makes or scores."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

from alignbench.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class WorkShare:
    """The place of a process among those that were started together, and of these among the shards.

    Attributes:
        rank, num_processes: among the processes of one launch, from 0.
        shard, num_shards: among commands that know nothing of each other, from 1.
    """

    rank: int = 0
    num_processes: int = 1
    shard: int = 1
    num_shards: int = 1

    @classmethod
    def of(cls, shard: str | None, rank: int = 0, num_processes: int = 1) -> Self:
        """Return the place that `shard`, written as in 1/4, gives; None for the whole.

        Raises:
            UserError: it is written otherwise, or there is no such shard.
        """
        if shard is None:
            return cls(rank, num_processes)
        match = re.fullmatch(r"(\d+)/(\d+)", str(shard))
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise UserError(f"shard={shard} is not understood; expected I/N with I from 1 to N, as in shard=1/4")
        return cls(rank, num_processes, int(match[1]), int(match[2]))

    @property
    def is_main(self) -> bool:
        """Whether this process speaks for those started with it."""
        return self.rank == 0

    @property
    def name(self) -> str:
        """A file name that no other process of this split has."""
        return f"{self.shard}of{self.num_shards}-{self.rank}of{self.num_processes}"

    def share(self, items: Sequence[T]) -> list[T]:
        """Return the items that fall to this process: each to one, evenly."""
        first = (self.shard - 1) * self.num_processes + self.rank
        return list(items[first :: self.num_shards * self.num_processes])

    def shard_of(self, items: Sequence[T]) -> list[T]:
        """Return the items that fall to this process and those started with it."""
        width = self.num_shards * self.num_processes
        return [item for i, item in enumerate(items) if i % width // self.num_processes == self.shard - 1]

    def batches(self, items: Sequence[T], size: int) -> list[list[T]]:
        """Cut items into batches of at most `size`, so small that every process of the split gets one if it can.

        They are the same whatever is done already, and so is the rounding of what is computed together.
        """
        size = max(1, min(size, math.ceil(len(items) / (self.num_shards * self.num_processes))))
        return [list(items[start : start + size]) for start in range(0, len(items), size)]
