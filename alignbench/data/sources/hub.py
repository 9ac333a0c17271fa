"""Data sets of the Hugging Face hub: rows are streamed once into the user's cache and read there as local data."""

from collections.abc import Mapping
from typing import Unpack

from alignbench.data.hub.columns import CAPTIONS, LABELS, PAIRS, PROMPTS
from alignbench.data.hub.stored_copy import HubOptions, StoredCopy
from alignbench.data.sources.captions import caption_of, read_captions
from alignbench.data.sources.kto_csv import label_of, read_labels
from alignbench.data.sources.local import DistinctPrompts, pairs_of, read_pairs
from alignbench.data.sources.pair_table_source import PairOptions, PairTableSource
from alignbench.data.sources.table_source import (
    CaptionedSource,
    Contents,
    LabelledSource,
    LabelOptions,
    TableOptions,
)
from alignbench.data.storage.text_tables import stream_rows


class HubPairOptions(PairOptions, HubOptions):
    """The configuration keys of pairs of the hub."""


class HubLabelOptions(LabelOptions, HubOptions):
    """The configuration keys of labelled images of the hub."""


class HubCaptionOptions(TableOptions, HubOptions):
    """The configuration keys of captioned images of the hub."""


class HubPairs(PairTableSource):
    """Pairs of a data set of the hub: winner and loser, two images with a preference, or a list of graded images.

    Args:
        name: as typed in `data=`.
        columns: the column of each role of `alignbench.data.hub.columns.PAIRS`; None to find it by its usual names.
        options: see `alignbench.settings.data.PairSettings` and `HubSettings`.
    """

    def __init__(self, name: str, columns: Mapping[str, str | None], **options: Unpack[HubPairOptions]) -> None:
        super().__init__(name, options)
        self.stored_copy = StoredCopy.of(PAIRS, columns, options, pairs_of)

    def read(self) -> Contents:
        return read_pairs(self.stored_copy.folder() / PAIRS.list)


class HubLabels(LabelledSource):
    """Single images of a data set of the hub, labelled as desirable or not.

    Args:
        name: as typed in `data=`.
        columns: the columns of prompt, image and label; None to find one by its usual names.
        options: see `alignbench.settings.data.LabelSettings` and `HubSettings`.
    """

    def __init__(self, name: str, columns: Mapping[str, str | None], **options: Unpack[HubLabelOptions]) -> None:
        super().__init__(name, options)
        self.stored_copy = StoredCopy.of(LABELS, columns, options, label_of)

    def read(self) -> Contents:
        return read_labels(self.stored_copy.folder() / LABELS.list)


class HubCaptions(CaptionedSource):
    """Captioned images of a data set of the hub.

    Args:
        name: as typed in `data=`.
        columns: the columns of prompt and image; None to find one by its usual names.
        options: see `alignbench.settings.data.RowSettings` and `HubSettings`.
    """

    def __init__(self, name: str, columns: Mapping[str, str | None], **options: Unpack[HubCaptionOptions]) -> None:
        super().__init__(name, options)
        self.stored_copy = StoredCopy.of(CAPTIONS, columns, options, caption_of)

    def read(self) -> Contents:
        return read_captions(self.stored_copy.folder() / CAPTIONS.list)


class HubPrompts(DistinctPrompts):
    """The distinct prompts of a data set of the hub; its images, if it has any, are not read.

    Args:
        name: as typed in `data=`.
        columns: the column of prompts; None to find it by its usual names.
        options: see `alignbench.settings.data.HubSettings`.
    """

    def __init__(self, name: str, columns: Mapping[str, str | None], **options: Unpack[HubOptions]) -> None:
        super().__init__(name)
        self.stored_copy = StoredCopy.of(PROMPTS, columns, options, lambda row: row.text("prompt"))

    def read(self) -> list[str]:
        return [row.text("prompt") for row in stream_rows(self.stored_copy.folder() / PROMPTS.list)]
