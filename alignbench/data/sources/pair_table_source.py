"""Pairs of images on a disk, of which one is preferred: ties, repeated judgements, winners first, noisy labels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from alignbench.data.source import Kind, LabelledSample, Pair, PairSample, PairSource, PromptSample, View
from alignbench.data.sources.labels import Noise, by_vote, groups, winners_first, without_repeats
from alignbench.data.sources.sample_table import Table
from alignbench.data.sources.table_source import Corpus, LabelColumns, LabelOptions
from alignbench.settings.data import PairSettings, Repeats, Ties


class PairOptions(LabelOptions):
    """The keys of data that are pairs; `PairSettings` declares them."""

    ties: Ties
    repeats: Repeats


class Paired(Corpus, PairSource):
    """Pairs of images, of which one is preferred."""

    def __init__(self, name: str, options: PairOptions) -> None:
        PairSettings.check(options, "data")
        super().__init__(name, options)
        self.ties: Ties = options["ties"]
        self.repeats: Repeats = options["repeats"]
        self.mixed = options["mixed"]
        self.noise = Noise.of(options)

    def judged(self, table: Table) -> Table:
        table = table.without(np.isnan(table.label), "no label", self.dropped)
        self.refuse_labels(table, (table.label < 0.0) | (table.label > 1.0), "a probability, 0..1")
        table = table.without(table.images[:, 0] == table.images[:, 1], "twice the same image", self.dropped)
        if self.repeats == "vote":
            table = by_vote(table, self.dropped)
        if self.ties == "drop":
            table = table.without(table.label == 0.5, "tie", self.dropped)
        return table

    def settled(self, table: Table) -> Table:
        """Put winners first, leave out what was said before, and turn some pairs around where that is asked for."""
        table = winners_first(table)
        if self.repeats == "drop":
            table = without_repeats(table, self.dropped)
        turned = self.noise.turned(table, self.contents.store)
        return replace(table, images=np.where(turned[:, None], table.images[:, ::-1], table.images))

    def summary(self) -> str:
        return self.noise.told(super().summary())

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
                return View(range(len(self.kept)), self._pair_sample, self.blocks(self.kept.images))

    def _pair_sample(self, row: int) -> PairSample:
        winner, loser = (self.image(int(number)) for number in self.kept.images[row])
        return PairSample(self.prompt(row), winner, loser, float(self.kept.label[row]))

    def _labels(self) -> LabelColumns:
        """Return each image of each prompt once, as `alignbench.data.source.labels` does, in columns."""
        table = self.kept.rows(self.kept.label > 0.5)
        singles = Table(
            table.texts, table.prompt.repeat(2), table.images.reshape(-1, 1), np.tile([1.0, 0.0], len(table))
        )
        first, group = groups(singles)
        won, lost = (np.bincount(group[side::2], minlength=len(first)) > 0 for side in (0, 1))
        both = won & lost
        desirable = np.where(both, self.mixed == "desirable", won)
        chosen = ~both if self.mixed == "dropped" else np.ones_like(both)
        images = singles.rows(first[chosen])

        def make(position: int, wanted: bool) -> LabelledSample:
            text = images.texts[images.prompt[position]]
            return LabelledSample(text, self.image(int(images.images[position, 0])), wanted)

        return LabelColumns(desirable[chosen], make, self.blocks(images.images))


@dataclass(frozen=True)
class PairColumns(Sequence[Pair]):
    """The pairs of a source, each made when it is asked for."""

    source: Paired

    def __len__(self) -> int:
        return len(self.source.kept)

    def __getitem__(self, row: int) -> Pair:  # pyright: ignore[reportIncompatibleMethodOverride]
        if row >= len(self):
            raise IndexError(row)  # what ends a loop over a sequence
        table, store = self.source.kept, self.source.contents.store
        key_w, key_l = (store.image(int(number)).key for number in table.images[row])
        return Pair(self.source.prompt(row), key_w, key_l, float(table.label[row]))
