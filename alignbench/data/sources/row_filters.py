"""Which rows of a data set are kept, and why the others are filtered out."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self, TypedDict

import numpy as np

from alignbench.data.sources.sample_table import SampleTable
from alignbench.data.storage.damaged_images import damaged_images
from alignbench.data.storage.image_headers import CODES, image_headers
from alignbench.data.storage.image_store import ImageStore
from alignbench.data.storage.text_tables import lines_of, read_text
from alignbench.errors import UserError, did_you_mean
from alignbench.images import UNREADABLE
from alignbench.settings.data import RowSettings, Split
from alignbench.text import is_held_out, plain


class RuleOptions(TypedDict):
    """The configuration keys that filter rows; `RowSettings` declares them."""

    split: Split
    heldout_share: float
    exclude: str | None
    min_side: int
    check_images: bool


@dataclass(frozen=True)
class Rules:
    """Which rows are kept.

    Attributes:
        split: which prompts are kept: those to train on, those held out, or all.
        heldout_share: share of all prompts that are held out, 0..1; see `is_held_out`.
        exclude: path of a text file. Each line is a prompt or the key of an image; rows with one of them are left out.
        min_side: rows with an image whose short side has fewer pixels are left out.
        check_images: whether the header and the end of every image are read before training, once for each state of
            the data; rows with missing or damaged images are then left out. Otherwise training stops at the first.
    """

    split: Split
    heldout_share: float
    exclude: str | None
    min_side: int
    check_images: bool

    @classmethod
    def of(cls, options: RuleOptions) -> Self:
        """Build the rules of a configuration.

        Raises:
            UserError: a value is invalid.
        """
        RowSettings.check(options, "data")
        rules = cls(**{key: options[key] for key in RuleOptions.__annotations__})
        if rules.min_side and not rules.check_images:
            raise UserError("data.min_side is read from the headers of images; add data.check_images=true")
        if rules.split == "heldout" and not rules.heldout_share:
            raise UserError("data.split=heldout is empty with data.heldout_share=0; choose a share above 0")
        if rules.exclude is not None and not Path(rules.exclude).is_file():
            raise UserError(f"data.exclude={rules.exclude} does not exist; expected a text file")
        return rules

    @cached_property
    def excluded(self) -> list[str]:
        """The prompts and image keys to leave out: the lines of the file `exclude`."""
        return [] if self.exclude is None else [line for _, line in lines_of(read_text(Path(self.exclude)))]

    def keep_prompts(self, table: SampleTable, num_filtered: Counter[str]) -> SampleTable:
        """Return the rows whose prompts are kept. Count each other row under the first reason that applies to it."""
        texts, unwanted = table.texts, {plain(line) for line in self.excluded}
        blank = np.array([not text.strip() for text in texts], bool)
        table = table.without(blank[table.prompt], "empty prompt", num_filtered)
        held_out = np.array([is_held_out(text, self.heldout_share) for text in texts], bool)
        if self.split == "train":
            table = table.without(held_out[table.prompt], "held out", num_filtered)
        elif self.split == "heldout":
            table = table.without(~held_out[table.prompt], "not held out", num_filtered)
        excluded = np.array([plain(text) in unwanted for text in texts] if unwanted else [False] * len(texts), bool)
        return table.without(excluded[table.prompt], "excluded", num_filtered)

    def keep_images(
        self, table: SampleTable, store: ImageStore, num_filtered: Counter[str], first_filtered: dict[str, str]
    ) -> SampleTable:
        """Return the rows whose images are kept and can be read. Count the others as `keep_prompts` does.

        Args:
            first_filtered: receives, by reason, where the first image is that cannot be used.
        """
        named = [number for line in self.excluded if (number := store.number(line)) is not None]
        table = table.without(np.isin(table.images, named).max(1, initial=False), "excluded", num_filtered)
        damaged = [number for key in damaged_images(store) if (number := store.number(key)) is not None]
        if (wrong := np.isin(table.images, damaged)).any():
            first_filtered[UNREADABLE] = store.image(int(table.images[wrong][0])).location
            table = table.without(wrong.max(1, initial=False), UNREADABLE, num_filtered)
        if not self.check_images:
            return table
        sides = image_headers(store, table.images)[..., :2].min(-1)  # [N, images in a row]
        shortest = sides.min(1)
        reasons = {fault: shortest == code for fault, code in CODES.items()}
        reasons["too small"] = (shortest >= 0) & (shortest < self.min_side)
        for reason, wrong in reasons.items():
            if wrong.any():
                row = int(wrong.argmax())
                first_filtered[reason] = (
                    first_filtered.get(reason) or store.image(int(table.images[row, sides[row].argmin()])).location
                )
                num_filtered[reason] += int(wrong.sum())
        return table.rows(~np.logical_or.reduce(list(reasons.values())))


def unread(name: str) -> str:
    """Return the reason under which a file counts whose format no source reads."""
    _, dot, suffix = name.rpartition(".")
    return f"{dot}{suffix.lower()} files are not read" if dot else "files without a suffix are not read"


def check_choice(key: str, value: object, known: tuple[str, ...]) -> None:
    """Refuse an unknown value of a key of `data`."""
    if value not in known:
        raise UserError(f"data.{key}={value} is unknown;{did_you_mean(str(value), known)}")
