"""Data sets that lie on a disk: from a table of prompts, image numbers and labels to samples, read when asked for."""

import hashlib
import json
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from alignbench.crop import Size
from alignbench.data.source import (
    DataSource,
    ImageSample,
    Kind,
    LabelledSample,
    LazyPicture,
    Picture,
    PromptSample,
    View,
)
from alignbench.data.sources.labels import Noise, groups, without_repeats
from alignbench.data.sources.row_filters import RuleOptions, Rules
from alignbench.data.sources.sample_table import Table
from alignbench.data.storage.image_headers import image_sizes
from alignbench.data.storage.image_store import ImageStore
from alignbench.data.storage.read_blocks import Blocks
from alignbench.errors import UserError
from alignbench.settings.data import LabelSettings, Mixed, Posterior


class CorpusOptions(RuleOptions):
    """The keys that all data on a disk have in common; `RowSettings` declares them."""

    posterior: Posterior


class LabelOptions(CorpusOptions):
    """Those of labelled images; `LabelSettings` declares them."""

    mixed: Mixed
    label_noise: float
    noise_seed: int


class Contents(NamedTuple):
    """What a data set says, and where its images are."""

    table: Table
    store: ImageStore


class Corpus(DataSource):
    """Data whose images stay where they are: a table says which there are, and each is read when it is asked for.

    The table is read when it is first needed, the headers of images when a view of images is taken.
    """

    def __init__(self, name: str, options: CorpusOptions) -> None:
        self.name = name
        self.rules = Rules.of(options)
        self.posterior: Posterior = options["posterior"]
        self.dropped: Counter[str] = Counter()

    @abstractmethod
    def read(self) -> Contents:
        """Return all rows, and the store of their images; rows that cannot be told are counted in `dropped`."""

    @cached_property
    def contents(self) -> Contents:
        return self.read()

    @cached_property
    def told(self) -> Table:
        """The rows that are kept as far as can be told without looking at images."""
        table = self.rules.keep_prompts(self.contents.table, self.dropped)
        return self._not_empty(self.judged(table))

    @cached_property
    def kept(self) -> Table:
        """The rows that samples are made of. The counts of what was dropped are final."""
        return self._not_empty(self.settled(self.rules.keep_images(self.told, self.contents.store, self.dropped)))

    def judged(self, table: Table) -> Table:
        """Return the rows whose labels say something."""
        return table

    def settled(self, table: Table) -> Table:
        """Return the final rows, of those whose images are all there."""
        return table

    def refuse_labels(self, table: Table, wrong: np.ndarray, expected: str) -> None:
        """Refuse labels that mean nothing here.

        Raises:
            UserError: some rows are `wrong`, [N], bool.
        """
        if wrong.any():
            row = int(wrong.argmax())
            key = self.contents.store.image(int(table.images[row, 0])).key
            raise UserError(f"data={self.name} has the label {table.label[row]:g} for {key}; expected {expected}")

    def _not_empty(self, table: Table) -> Table:
        if not len(table):
            because = f": {self.summary()}" if self.dropped else ""
            raise UserError(f"data={self.name} holds nothing to train on{because}")
        return table

    @cached_property
    def prompts(self) -> list[str]:
        return self.told.used_texts

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the kept rows and of the images, as far as `ImageStore.identity` says."""
        table = self.kept
        digest = hashlib.sha256(json.dumps([table.texts, self.contents.store.identity]).encode())
        for column in (table.prompt, table.images, table.label):
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()

    def picture(self, key: str) -> Picture:
        """Return an image by its key."""
        return self.image(self._number(key))

    def size(self, picture: Picture) -> Size:
        height, width = self._sizes[self._number(picture.key)]
        return int(height), int(width)

    @cached_property
    def _sizes(self) -> np.ndarray:
        """Height and width of every image that is kept, by their headers; 1 x 1 where those are damaged."""
        store, numbers = self.contents.store, self.kept.images.ravel()
        sizes = np.ones((len(store), 2), np.int32)
        sizes[numbers] = image_sizes(store, numbers).clip(1)
        return sizes

    def address(self, key: str) -> str:
        return self.contents.store.address(key)

    def _number(self, key: str) -> int:
        number = self.contents.store.number(key)
        if number is None:
            raise KeyError(key)
        return number

    def image(self, number: int) -> Picture:
        """Return an image by its number; it is decoded when its pixels are asked for."""
        encoded = self.contents.store.image(number)
        return LazyPicture(encoded.key, encoded.decode)

    def blocks(self, images: np.ndarray) -> Blocks | None:
        """Return which samples are read together, given numbers of their images, [N, images a sample]."""
        return self.contents.store.blocks(images.max(axis=1))  # an image seen before is named by its first place

    def prompt(self, row: int) -> str:
        """Return the prompt of a row that was kept."""
        return self.kept.texts[self.kept.prompt[row]]

    def image_sample(self, row: int) -> ImageSample:
        """Return the first image of a row with its prompt."""
        return ImageSample(self.prompt(row), self.image(int(self.kept.images[row, 0])))

    def labelled_sample(self, row: int, desirable: bool) -> LabelledSample:
        """Return the first image of a row with its prompt and label."""
        return LabelledSample(self.prompt(row), self.image(int(self.kept.images[row, 0])), desirable)

    def prompt_view(self) -> Sequence[PromptSample]:
        return View(self.prompts, PromptSample)


@dataclass(frozen=True)
class LabelColumns(Sequence[PromptSample]):
    """Labelled samples whose labels are known before an image is read: what `LabelledView` is, in columns.

    Attributes:
        labels: [N], bool.
        make: turns a place and its label into the sample.
        blocks: which samples are read together; None where any order costs the same.
    """

    labels: np.ndarray
    make: Callable[[int, bool], LabelledSample]
    blocks: Blocks | None = None

    @property
    def desirable(self) -> list[bool]:
        """The label of each sample."""
        return self.labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, position: int) -> LabelledSample:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.make(position, bool(self.labels[position]))


class Captioned(Corpus):
    """Images with their captions. Somebody collected them, so all count as desirable; one listed twice counts once."""

    provides = frozenset({"prompts", "images", "labels"})

    def settled(self, table: Table) -> Table:
        return without_repeats(table, self.dropped)

    def view(self, kind: Kind) -> Sequence[PromptSample]:
        match kind:
            case "prompts":
                return self.prompt_view()
            case "images":
                return View(range(len(self.kept)), self.image_sample)
            case "labels":
                return LabelColumns(np.ones(len(self.kept), bool), self.labelled_sample)
        raise UserError(f"data={self.name} has captioned images and no {kind}")


class Labelled(Corpus):
    """Images that people did or did not want, each once under its prompt."""

    provides = frozenset({"prompts", "images", "labels"})

    def __init__(self, name: str, options: LabelOptions) -> None:
        LabelSettings.check(options, "data")
        super().__init__(name, options)
        self.mixed = options["mixed"]
        self.noise = Noise.of(options)

    def judged(self, table: Table) -> Table:
        table = table.without(np.isnan(table.label), "no label", self.dropped)
        self.refuse_labels(table, ~np.isin(table.label, (0.0, 0.5, 1.0)), "1 for desirable or 0 for not")
        return table

    def settled(self, table: Table) -> Table:
        """Give every image one label, and turn some around where that is asked for."""
        first, group = groups(table)
        low, high = np.ones(len(first)), np.zeros(len(first))
        np.minimum.at(low, group, table.label)
        np.maximum.at(high, group, table.label)
        both = (low != high) | (low == 0.5)
        self.dropped.update({"duplicate": len(table) - len(first)} if len(first) < len(table) else {})
        table = replace(table.rows(first), label=np.where(both, float(self.mixed == "desirable"), low))
        if self.mixed == "dropped":
            table = table.without(both, "won and lost", self.dropped)
        turned = self.noise.turned(table, self.contents.store)
        return replace(table, label=np.where(turned, 1.0 - table.label, table.label))

    def summary(self) -> str:
        return self.noise.told(super().summary())

    def view(self, kind: Kind) -> Sequence[PromptSample]:
        match kind:
            case "prompts":
                return self.prompt_view()
            case "images":
                return View(np.flatnonzero(self.kept.label == 1.0).tolist(), self.image_sample)
            case "labels":
                return LabelColumns(self.kept.label == 1.0, self.labelled_sample)
        raise UserError(f"data={self.name} has labelled images and no {kind}")
