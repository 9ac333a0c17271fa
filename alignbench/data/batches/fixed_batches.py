"""Batches of one size for a frozen network, so that the bits of an entry do not depend on what is encoded with it.

Kernels choose the order of their sums by the shapes of what they are given. In batches of one size, filled up where
entries are lacking, an entry therefore has the same bits beside any others. At another place in the batch it has them
too, unless a kernel treats the ends of what each thread is given in another way; `places_are_alike` finds out.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from alignbench.data.storage.tensor_store import Entry

T = TypeVar("T")


def filled(rows: Sequence[T], size: int) -> list[T]:
    """Return rows, the last one repeated until there are `size`."""
    return [*rows, *[rows[-1]] * (size - len(rows))]


def places_are_alike(encode: Callable[[Sequence[T]], list[Entry]], rows: Sequence[T]) -> bool:
    """Say whether each row is encoded with the same bits when all have moved by one place.

    Args:
        encode: encodes a whole batch.
        rows: a batch of rows that all differ.
    """
    first, moved = encode(rows), encode([*rows[1:], *rows[:1]])
    pairs = zip(first, [*moved[-1:], *moved[:-1]], strict=True)
    return all(torch.equal(one[name], other[name]) for one, other in pairs for name in one)
