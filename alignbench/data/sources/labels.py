"""How labels are prepared for training: repeated comparisons, majority votes, and label noise."""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from alignbench.data.sources.sample_table import SampleTable
from alignbench.data.storage.image_store import ImageStore

NO_LABEL = ("", "null", "none")  # cells of .csv files


def number_or_nan(value: Any) -> float:
    """Return a label, score, rating, rank or probability as a number; NaN for null, an empty cell, NaN and infinity.

    Raises:
        ValueError, TypeError: it is no number.
    """
    if value is None or (isinstance(value, str) and value.strip().lower() in NO_LABEL):
        return math.nan
    try:
        number = float(value)
    except OverflowError:  # an integer of more than 308 digits
        return math.nan
    return number if math.isfinite(number) else math.nan


def groups(table: SampleTable) -> tuple[np.ndarray, np.ndarray]:
    """Group the rows that have the same images, in the same order, under the same prompt.

    Returns:
        The first row of each group, in order of appearance, and the index of each row's group among them, [N].
    """
    columns = np.column_stack([table.prompt, table.images])
    _, first, group = np.unique(columns, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    ranks = np.empty_like(order)
    ranks[order] = np.arange(len(order))
    return first[order], ranks[group.reshape(-1)]


def without_repeats(table: SampleTable, num_filtered: Counter[str]) -> SampleTable:
    """Return the first row of each group, and count the others as filtered."""
    first, _ = groups(table)
    repeated = np.ones(len(table), bool)
    repeated[first] = False
    return table.without(repeated, "duplicate", num_filtered)


def winners_first(table: SampleTable) -> SampleTable:
    """Return pairs in which the first image is the one that is more probably preferred."""
    swapped = table.label < 0.5
    images = np.where(swapped[:, None], table.images[:, ::-1], table.images)
    return replace(table, images=images, label=np.where(swapped, 1.0 - table.label, table.label))


def by_vote(table: SampleTable, num_filtered: Counter[str]) -> SampleTable:
    """Return one pair for all comparisons of two images of a prompt; its label is the mean of their labels."""
    swapped = table.images[:, 0] > table.images[:, 1]
    label = np.where(swapped, 1.0 - table.label, table.label)
    ordered = replace(table, images=np.sort(table.images, axis=1), label=label)
    first, group = groups(ordered)
    share = np.bincount(group, label) / np.bincount(group)
    if len(first) < len(table):
        num_filtered["counted with another vote"] += len(table) - len(first)
    return replace(ordered.rows(first), label=share)


@dataclass
class Noise:
    """Label noise: labels are flipped with a given probability, to study how a method reacts.

    Whether a label is flipped depends on the seed, the prompt and the keys of the images alone, not on other rows or
    their order. A higher rate flips all labels that a lower one flips.

    Attributes:
        rate: probability that a label is flipped, 0..1.
        seed: seed of the draws.
        num_flipped: number of labels that were flipped.
    """

    rate: float
    seed: int
    num_flipped: int = 0

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        """Read `label_noise` and `noise_seed`."""
        return cls(options["label_noise"], options["noise_seed"])

    def flipped(self, table: SampleTable, store: ImageStore) -> np.ndarray:
        """Say which labels are flipped, [N], bool."""
        if not self.rate:
            return np.zeros(len(table), bool)
        draws = (self._draw(table, store, row) for row in range(len(table)))
        flipped = np.fromiter(draws, float, len(table)) < self.rate
        self.num_flipped = int(flipped.sum())
        return flipped

    def describe(self, summary: str) -> str:
        """Add the number of flipped labels to a summary of filtered rows."""
        flipped = [f"{self.num_flipped} labels flipped (data.label_noise={self.rate})"] if self.rate else []
        return ", ".join([*([summary] if summary else []), *flipped])

    def _draw(self, table: SampleTable, store: ImageStore, row: int) -> float:
        """Return a number drawn uniformly from 0..1 for a row."""
        keys = sorted(store.image(int(number)).key for number in table.images[row])
        text = "\0".join([str(self.seed), table.texts[table.prompt[row]], *keys])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64
