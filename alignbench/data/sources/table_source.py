"""Data sets on disk: a table of prompts, image numbers and labels; images are read only when a sample is read."""

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
    LazyTrainingImage,
    PromptSample,
    TrainingImage,
    View,
)
from alignbench.data.sources.labels import Noise, groups, without_repeats
from alignbench.data.sources.row_filters import RuleOptions, Rules
from alignbench.data.sources.sample_table import SampleTable
from alignbench.data.storage.damaged_images import note_damaged
from alignbench.data.storage.image_headers import image_headers
from alignbench.data.storage.image_store import ImageStore
from alignbench.data.storage.read_blocks import Blocks
from alignbench.errors import UserError
from alignbench.settings.data import LabelSettings, Mixed, Posterior
from alignbench.videos import FrameSpec, check_films


class TableOptions(RuleOptions):
    """The configuration keys of all data sets on disk; `RowSettings` declares them."""

    posterior: Posterior


class LabelOptions(TableOptions):
    """The configuration keys of labelled images; `LabelSettings` declares them."""

    mixed: Mixed
    label_noise: float
    noise_seed: int


class Contents(NamedTuple):
    """The rows of a data set, and the store of their images."""

    table: SampleTable
    store: ImageStore


class TableSource(DataSource):
    """Data whose images stay on disk: a table lists them, and each is read when its sample is read.

    The table is read when it is first needed. The headers of the images are read when a view of images is first taken.

    Attributes:
        frames: what is read of each file, where the source holds videos; None for pictures.
    """

    frames: FrameSpec | None = None

    def __init__(self, name: str, options: TableOptions) -> None:
        self.name = name
        self.rules = Rules.of(options)
        self.posterior: Posterior = options["posterior"]
        self.num_filtered: Counter[str] = Counter()
        self.first_filtered: dict[str, str] = {}

    @abstractmethod
    def read(self) -> Contents:
        """Return all rows and the store of their images; rows that cannot be read are counted in `num_filtered`."""

    @cached_property
    def contents(self) -> Contents:
        contents = self.read()
        if self.frames is not None:
            check_films(contents.store.files())
        return contents

    @cached_property
    def text_filtered(self) -> SampleTable:
        """The rows that pass the filters of prompts and labels; no image is read."""
        table = self.rules.keep_prompts(self.contents.table, self.num_filtered)
        return self._not_empty(self.with_labels(table))

    @cached_property
    def kept(self) -> SampleTable:
        """The rows that samples are made of. After this, `num_filtered` is complete."""
        table = self.rules.keep_images(self.text_filtered, self.contents.store, self.num_filtered, self.first_filtered)
        return self._not_empty(self.assign_labels(table))

    def with_labels(self, table: SampleTable) -> SampleTable:
        """Return the rows that have a usable label."""
        return table

    def assign_labels(self, table: SampleTable) -> SampleTable:
        """Return the final rows with their final labels, given the rows that pass all filters."""
        return table

    def refuse_labels(self, table: SampleTable, wrong: np.ndarray, expected: str) -> None:
        """Refuse labels outside their range.

        Raises:
            UserError: some rows are `wrong`, [N], bool.
        """
        if wrong.any():
            row = int(wrong.argmax())
            key = self.contents.store.image(int(table.images[row, 0])).key
            raise UserError(f"data={self.name} has the label {table.label[row]:g} for {key}; expected {expected}")

    def _not_empty(self, table: SampleTable) -> SampleTable:
        if not len(table):
            reasons = f": {self.summary()}" if self.num_filtered else ""
            raise UserError(f"data={self.name} holds nothing to train on{reasons}")
        return table

    @cached_property
    def prompts(self) -> list[str]:
        return self.text_filtered.used_texts

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the kept rows and of `ImageStore.identity`, which stands for the images."""
        table, store = self.kept, self.contents.store
        digest = hashlib.sha256(json.dumps([table.texts, store.identity]).encode())
        for column in (table.prompt, table.images, table.label):
            digest.update(np.ascontiguousarray(column).tobytes())
        # what version 0.1.0 left out; where there is none of it, the hash is still that of 0.1.0
        if missing := store.missing:  # the identity covers existing files alone, and the rows hold numbers
            digest.update(json.dumps(list(missing.items())).encode())
        if self._converted.any():
            digest.update(np.packbits(self._converted).tobytes())
        return digest.hexdigest()

    def note_damaged(self, keys: Sequence[str]) -> bool:
        note_damaged(self.contents.store, keys)
        return True

    def image(self, key: str) -> TrainingImage:
        """Return an image by its key."""
        return self.image_at(self._number(key))

    def size(self, image: TrainingImage) -> Size:
        height, width, _ = self._headers[self._number(image.key)]
        return max(int(height), 1), max(int(width), 1)  # of a faulty image that was not checked

    @cached_property
    def _headers(self) -> np.ndarray:
        """The header of every kept image, by number, as of `image_headers`; zeros for the other images."""
        store, numbers = self.contents.store, self.kept.images.ravel()
        headers = np.zeros((len(store), 3), np.int32)
        headers[numbers] = image_headers(store, numbers)
        return headers

    @cached_property
    def _converted(self) -> np.ndarray:
        """Whether version 0.1.0 trained on other pixels of an image, by number, bool; no image if none was checked."""
        if not self.rules.check_images:
            return np.zeros(len(self.contents.store), bool)
        return self._headers[:, 2] == 1

    def address(self, key: str) -> str:
        address = self.contents.store.address(key)
        return f"{address}/converted" if self._converted[self._number(key)] else address

    def _number(self, key: str) -> int:
        number = self.contents.store.number(key)
        if number is None:
            raise KeyError(key)
        return number

    def image_at(self, number: int) -> TrainingImage:
        """Return an image by its number; it is decoded when its pixels are first read."""
        encoded = self.contents.store.image(number)
        return LazyTrainingImage(encoded.key, encoded.decode)

    def blocks(self, images: np.ndarray) -> Blocks | None:
        """Return which samples are read together, given the numbers of their images, [N, images in a sample]."""
        return self.contents.store.blocks(images.max(axis=1))  # a repeated image has its first number

    def prompt(self, row: int) -> str:
        """Return the prompt of a kept row."""
        return self.kept.texts[self.kept.prompt[row]]

    def image_sample(self, row: int) -> ImageSample:
        """Return the first image of a row with its prompt."""
        return ImageSample(self.prompt(row), self.image_at(int(self.kept.images[row, 0])))

    def labelled_sample(self, row: int, desirable: bool) -> LabelledSample:
        """Return the first image of a row with its prompt and label."""
        return LabelledSample(self.prompt(row), self.image_at(int(self.kept.images[row, 0])), desirable)

    def prompt_view(self) -> Sequence[PromptSample]:
        return View(self.prompts, PromptSample)


@dataclass(frozen=True)
class LabelColumns(Sequence[PromptSample]):
    """Labelled samples whose labels are known before any image is read: a `LabelledView` stored as columns.

    Attributes:
        labels: [N], bool.
        make: returns a sample, given its position and its label.
        blocks: which samples are read together; None if every order costs the same.
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


class CaptionedSource(TableSource):
    """Images with their captions. All count as desirable. An image that is listed twice is used once."""

    provides = frozenset({"prompts", "images", "labels"})

    def assign_labels(self, table: SampleTable) -> SampleTable:
        return without_repeats(table, self.num_filtered)

    def view(self, kind: Kind) -> Sequence[PromptSample]:
        match kind:
            case "prompts":
                return self.prompt_view()
            case "images":
                return View(range(len(self.kept)), self.image_sample)
            case "labels":
                return LabelColumns(np.ones(len(self.kept), bool), self.labelled_sample)
        raise UserError(f"data={self.name} has captioned images, not {kind}")


class LabelledSource(TableSource):
    """Images labelled as desirable or not; each image is used once for each of its prompts."""

    provides = frozenset({"prompts", "images", "labels"})

    def __init__(self, name: str, options: LabelOptions) -> None:
        LabelSettings.check(options, "data")
        super().__init__(name, options)
        self.mixed = options["mixed"]
        self.noise = Noise.of(options)

    def with_labels(self, table: SampleTable) -> SampleTable:
        table = table.without(~np.isfinite(table.label), "no label", self.num_filtered)
        self.refuse_labels(table, ~np.isin(table.label, (0.0, 0.5, 1.0)), "1 for desirable or 0 for not")
        return table

    def assign_labels(self, table: SampleTable) -> SampleTable:
        """Give every image one label, and flip some labels if label noise is set."""
        first, group = groups(table)
        low, high = np.ones(len(first)), np.zeros(len(first))
        np.minimum.at(low, group, table.label)
        np.maximum.at(high, group, table.label)
        both = (low != high) | (low == 0.5)
        self.num_filtered.update({"duplicate": len(table) - len(first)} if len(first) < len(table) else {})
        table = replace(table.rows(first), label=np.where(both, float(self.mixed == "desirable"), low))
        if self.mixed == "dropped":
            table = table.without(both, "won and lost", self.num_filtered)
        flipped = self.noise.flipped(table, self.contents.store)
        return replace(table, label=np.where(flipped, 1.0 - table.label, table.label))

    def summary(self) -> str:
        return self.noise.describe(super().summary())

    def view(self, kind: Kind) -> Sequence[PromptSample]:
        match kind:
            case "prompts":
                return self.prompt_view()
            case "images":
                return View(np.flatnonzero(self.kept.label == 1.0).tolist(), self.image_sample)
            case "labels":
                return LabelColumns(self.kept.label == 1.0, self.labelled_sample)
        raise UserError(f"data={self.name} has labelled images, not {kind}")
