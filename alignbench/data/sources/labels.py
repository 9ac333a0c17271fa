"""What is done to judgements before they are trained on: repeated ones, votes, and labels turned around on purpose."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from alignbench.data.sources.sample_table import Table
from alignbench.data.storage.image_store import ImageStore


def groups(table: Table) -> tuple[np.ndarray, np.ndarray]:
    """Group the rows that have the same images, in the same order, under the same prompt.

    Returns:
        The first row of each group, in order of appearance, and the place of each row's group in it, [N].
    """
    columns = np.column_stack([table.prompt, table.images])
    _, first, group = np.unique(columns, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    return first[order], places[group.reshape(-1)]


def without_repeats(table: Table, dropped: Counter[str]) -> Table:
    """Return the first row of each group, and count the others."""
    first, _ = groups(table)
    repeated = np.ones(len(table), bool)
    repeated[first] = False
    return table.without(repeated, "duplicate", dropped)


def winners_first(table: Table) -> Table:
    """Return pairs with the image that is more probably preferred first."""
    swapped = table.label < 0.5
    images = np.where(swapped[:, None], table.images[:, ::-1], table.images)
    return replace(table, images=images, label=np.where(swapped, 1.0 - table.label, table.label))


def by_vote(table: Table, dropped: Counter[str]) -> Table:
    """Return one pair for all judgements of two images under a prompt: as probable as they are on average."""
    swapped = table.images[:, 0] > table.images[:, 1]
    label = np.where(swapped, 1.0 - table.label, table.label)
    ordered = replace(table, images=np.sort(table.images, axis=1), label=label)
    first, group = groups(ordered)
    share = np.bincount(group, label) / np.bincount(group)
    if len(first) < len(table):
        dropped["counted with another vote"] += len(table) - len(first)
    return replace(ordered.rows(first), label=share)


@dataclass
class Noise:
    """Labels turned around with a given probability, to study what noise does to a method.

    Whether a label is turned depends on the seed, the prompt and the names of the images alone: not on what else is in
    the data, nor on the order. What one rate turns, a higher one turns too.

    Attributes:
        rate: the probability, 0..1.
        seed: of the draws.
        num_turned: how many labels were turned.
    """

    rate: float
    seed: int
    num_turned: int = 0

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        """Build what `label_noise` and `noise_seed` ask for."""
        return cls(options["label_noise"], options["noise_seed"])

    def turned(self, table: Table, store: ImageStore) -> np.ndarray:
        """Say which rows have their label turned around, [N], bool."""
        if not self.rate:
            return np.zeros(len(table), bool)
        draws = (self._draw(table, store, row) for row in range(len(table)))
        turned = np.fromiter(draws, float, len(table)) < self.rate
        self.num_turned = int(turned.sum())
        return turned

    def told(self, summary: str) -> str:
        """Add what was turned to a summary of what was dropped."""
        turned = [f"{self.num_turned} labels turned around (data.label_noise={self.rate})"] if self.rate else []
        return ", ".join([*([summary] if summary else []), *turned])

    def _draw(self, table: Table, store: ImageStore, row: int) -> float:
        """Return a number that is uniform in 0..1."""
        keys = sorted(store.image(int(number)).key for number in table.images[row])
        text = "\0".join([str(self.seed), table.texts[table.prompt[row]], *keys])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64
