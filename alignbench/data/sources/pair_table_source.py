"""Pairs of images on disk with a preference: ties, repeated comparisons, winners first, label noise."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from alignbench.data.source import Kind, LabelledSample, Pair, PairSample, PairSource, PromptSample, View
from alignbench.data.sources.labels import Noise, by_vote, groups, winners_first, without_repeats
from alignbench.data.sources.sample_table import SampleTable
from alignbench.data.sources.table_source import LabelColumns, LabelOptions, TableSource
from alignbench.errors import UserError
from alignbench.settings.data import PairSettings, Repeats, Ties


class PairOptions(LabelOptions):
    """The configuration keys of pairs; `PairSettings` declares them."""

    ties: Ties
    repeats: Repeats


class PairTableSource(TableSource, PairSource):
    """Pairs of images on disk, each with the probability that the first is preferred."""

    def __init__(self, name: str, options: PairOptions) -> None:
        PairSettings.check(options, "data")
        super().__init__(name, options)
        self.ties: Ties = options["ties"]
        self.repeats: Repeats = options["repeats"]
        self.mixed = options["mixed"]
        self.noise = Noise.of(options)

    def with_labels(self, table: SampleTable) -> SampleTable:
        table = table.without(~np.isfinite(table.label), "no label", self.num_filtered)
        self.refuse_labels(table, (table.label < 0.0) | (table.label > 1.0), "a probability, 0..1")
        table = table.without(table.images[:, 0] == table.images[:, 1], "twice the same image", self.num_filtered)
        if self.repeats == "vote":
            table = by_vote(table, self.num_filtered)
        if self.ties == "drop":
            table = table.without(table.label == 0.5, "tie", self.num_filtered)
        return table

    def assign_labels(self, table: SampleTable) -> SampleTable:
        """Put winners first, leave out repeated pairs, and swap some pairs if label noise is set."""
        table = winners_first(table)
        if self.repeats == "drop":
            table = without_repeats(table, self.num_filtered)
        flipped = self.noise.flipped(table, self.contents.store)
        return replace(table, images=np.where(flipped[:, None], table.images[:, ::-1], table.images))

    def summary(self) -> str:
        return self.noise.describe(super().summary())

    @cached_property
    def pairs(self) -> Sequence[Pair]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return PairColumns(self)

    def view(self, kind: Kind) -> Sequence[PromptSample]:
        match kind:
            case "prompts":
                return self.prompt_view()
            case "images":
                rows = np.flatnonzero(self.kept.label > 0.5)
                return View(rows.tolist(), self.image_sample, self.blocks(self.kept.images[rows, :1]))
            case "labels":
                return self._labels()
            case "pairs":
                return View(range(len(self.kept)), self.pair_sample, self.blocks(self.kept.images))
        raise UserError(f"data={self.name} has pairs, not {kind}")

    def pair_sample(self, row: int) -> PairSample:
        """Return the images of a row, the winner first."""
        winner, loser = (self.image_at(int(number)) for number in self.kept.images[row])
        return PairSample(self.prompt(row), winner, loser, float(self.kept.label[row]))

    def _labels(self) -> LabelColumns:
        """Return each image of each prompt once with its label: `alignbench.data.source.labels`, stored as columns."""
        table = self.kept.rows(self.kept.label > 0.5)
        singles = SampleTable(
            table.texts, table.prompt.repeat(2), table.images.reshape(-1, 1), np.tile([1.0, 0.0], len(table))
        )
        first, group = groups(singles)
        won, lost = (np.bincount(group[side::2], minlength=len(first)) > 0 for side in (0, 1))
        both = won & lost
        desirable = np.where(both, self.mixed == "desirable", won)
        chosen = ~both if self.mixed == "dropped" else np.ones_like(both)
        images = singles.rows(first[chosen])

        def make(position: int, label: bool) -> LabelledSample:
            text = images.texts[images.prompt[position]]
            return LabelledSample(text, self.image_at(int(images.images[position, 0])), label)

        return LabelColumns(desirable[chosen], make, self.blocks(images.images))


@dataclass(frozen=True)
class PairColumns(Sequence[Pair]):
    """The pairs of a source; each is made when it is read."""

    source: PairTableSource

    def __len__(self) -> int:
        return len(self.source.kept)

    def __getitem__(self, row: int) -> Pair:  # pyright: ignore[reportIncompatibleMethodOverride]
        if row >= len(self):
            raise IndexError(row)  # ends a loop over the sequence
        table, store = self.source.kept, self.source.contents.store
        key_w, key_l = (store.image(int(number)).key for number in table.images[row])
        return Pair(self.source.prompt(row), key_w, key_l, float(table.label[row]))
