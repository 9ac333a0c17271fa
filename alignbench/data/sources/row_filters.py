"""Which rows of a data set are kept, and why the others are not."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self, TypedDict

import numpy as np

from alignbench.data.sources.sample_table import Table
from alignbench.data.storage.image_headers import MISSING, short_sides
from alignbench.data.storage.image_store import ImageStore
from alignbench.data.storage.text_tables import lines_of, read_text
from alignbench.errors import UserError, did_you_mean
from alignbench.settings.data import RowSettings, Split
from alignbench.text import is_held_out, plain


class RuleOptions(TypedDict):
    """What a data set's configuration says of its rows; `RowSettings` declares it."""

    split: Split
    heldout_share: float
    exclude: str | None
    min_side: int
    check_images: bool


@dataclass(frozen=True)
class Rules:
    """Which rows are kept.

    Attributes:
        split: rows of which prompts: those to train on, those held out, or all.
        heldout_share: share of all prompts that are held out, 0..1; see `is_held_out`.
        exclude: path of a file with a prompt, or the name of an image, a line; rows with one of them are dropped.
        min_side: rows with an image whose short side has fewer pixels are dropped.
        check_images: whether the header and the end of every image are looked at before training, once for each state
            of the data; rows with missing or damaged ones are then dropped. Otherwise training stops at the first.
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
            UserError: a value is impossible.
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
        """The lines of the file of prompts and images to leave out."""
        return [] if self.exclude is None else [line for _, line in lines_of(read_text(Path(self.exclude)))]

    def keep_prompts(self, table: Table, dropped: Counter[str]) -> Table:
        """Return the rows whose prompts are wanted; others are counted by reason, each under the first that applies."""
        texts, unwanted = table.texts, {plain(line) for line in self.excluded}
        blank = np.array([not text.strip() for text in texts], bool)
        table = table.without(blank[table.prompt], "empty prompt", dropped)
        held_out = np.array([is_held_out(text, self.heldout_share) for text in texts], bool)
        if self.split == "train":
            table = table.without(held_out[table.prompt], "held out", dropped)
        elif self.split == "heldout":
            table = table.without(~held_out[table.prompt], "not held out", dropped)
        excluded = np.array([plain(text) in unwanted for text in texts] if unwanted else [False] * len(texts), bool)
        return table.without(excluded[table.prompt], "excluded", dropped)

    def keep_images(self, table: Table, store: ImageStore, dropped: Counter[str]) -> Table:
        """Return the rows whose images are wanted and there; the rest is counted as by `keep_prompts`."""
        named = [number for line in self.excluded if (number := store.number(line)) is not None]
        table = table.without(np.isin(table.images, named).max(1, initial=False), "excluded", dropped)
        if not self.check_images:
            return table
        sides = short_sides(store, table.images).min(1)
        why = np.select(
            [sides == MISSING, sides == 0, sides < self.min_side],
            ["missing image", "unreadable image", "too small"],
            "",
        )
        dropped.update(why[why != ""].tolist())
        return table.rows(why == "")


def check_choice(key: str, value: object, known: tuple[str, ...]) -> None:
    """Refuse an unknown value of a key of `data`."""
    if value not in known:
        raise UserError(f"data.{key}={value} is unknown;{did_you_mean(str(value), known)}")
