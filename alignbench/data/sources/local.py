"""Your own data: a folder of pairs of images or videos, or a file of prompts."""

import hashlib
import json
import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

from alignbench.data.prompts import read_prompts
from alignbench.data.source import DataSource, Kind, PromptSample, View
from alignbench.data.sources.labels import number_or_nan
from alignbench.data.sources.pair_table_source import PairOptions, PairTableSource
from alignbench.data.sources.sample_table import SampleTableBuilder
from alignbench.data.sources.table_source import Contents
from alignbench.data.storage.image_store import Files
from alignbench.data.storage.text_tables import TextRow, stream_rows
from alignbench.errors import UserError
from alignbench.settings.section import FrameCount, Positive
from alignbench.videos import FrameSpec, frame_spec

LISTS = ("pairs.jsonl", "pairs.csv")


class LocalPairs(PairTableSource):
    """Pairs listed in `pairs.jsonl` or `pairs.csv` of a folder, one object or line for each comparison.

    Each has a prompt and one of these:
    - image_w, image_l and optionally probability_w (0.5..1);
    - image_0, image_1 and label_0, the probability that image_0 is preferred: 1 or 0 for a vote, 0.5 for a tie, as in
      Pick-a-Pic;
    - images, and either ranks (1 is best) or scores (high is best): all pairs of images; equal ones are ties (.jsonl).

    A pair without a finite number to decide it has no label; it is left out and counted.

    Images, or videos, are given as paths relative to the folder.

    Args:
        name: as typed in `data=`.
        path: the folder.
        num_frames, fps: see `alignbench.settings.data.VideoSettings`.
        options: see `alignbench.settings.data.PairSettings`.
    """

    def __init__(
        self,
        name: str,
        path: str,
        num_frames: FrameCount = 1,
        fps: Positive | None = None,
        **options: Unpack[PairOptions],
    ) -> None:
        super().__init__(name, options)
        self.frames = frame_spec(num_frames, fps)
        self.folder = Path(path)
        found = [self.folder / one for one in LISTS if (self.folder / one).is_file()]
        if len(found) != 1:
            raise UserError(f"data.path={path} holds {'both' if found else 'no'} {' and '.join(LISTS)}; expected one")
        self.list = found[0]

    def read(self) -> Contents:
        return read_pairs(self.list, self.frames)


def read_pairs(file: Path, frames: FrameSpec | None = None) -> Contents:
    """Return the pairs of a list, and the store of its images; their paths are relative to the list's folder."""
    store, rows = Files(file.parent, frames), SampleTableBuilder(2)
    for row in stream_rows(file):
        for prompt, images, label in pairs_of(row):
            rows.add(prompt, map(store.add, images), label)
    return Contents(rows.table(), store)


def pairs_of(row: TextRow) -> list[tuple[str, tuple[str, str], float]]:
    """Return the pairs of a row: prompt, two images, and the probability that the first is preferred.

    Raises:
        UserError: the row is none of the forms of `LocalPairs`.
    """
    try:
        return list(_pairs_of(row.values))
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{row.location} is not a pair: {_why(error)}") from None


def _pairs_of(values: dict[str, Any]) -> Iterator[tuple[str, tuple[str, str], float]]:
    prompt = _text(values["prompt"], "prompt")
    if "images" in values:
        images = [_text(image, "images") for image in values["images"]]
        best_first = "ranks" in values
        grades = [_number(grade, "ranks or scores") for grade in values["ranks" if best_first else "scores"]]
        if len(grades) != len(images):
            raise ValueError(f"it has {len(images)} images and {len(grades)} ranks or scores")
        yield from ((prompt, pair, label) for pair, label in ranked(images, grades, low_is_best=best_first))
    elif "image_w" in values:
        label = _number(values.get("probability_w", 1.0), "probability_w")
        if label < 0.5 or label > 1.0:
            raise ValueError(f"probability_w={label:g} must lie in 0.5..1")
        yield prompt, (_text(values["image_w"], "image_w"), _text(values["image_l"], "image_l")), label
    else:
        label = _number(values["label_0"], "label_0")
        if label < 0.0 or label > 1.0:
            raise ValueError(f"label_0={label:g} must lie in 0..1")
        yield prompt, (_text(values["image_0"], "image_0"), _text(values["image_1"], "image_1")), label


def ranked(
    images: Sequence[Any], grades: Sequence[float], low_is_best: bool
) -> Iterator[tuple[tuple[Any, Any], float]]:
    """Yield all pairs of some images.

    The label is 1 or 0 if the first or the second has the better grade, 0.5 if the grades are equal, and NaN if one of
    them is not finite.
    """
    sign = -1 if low_is_best else 1
    for second in range(1, len(images)):
        for first in range(second):
            lead = sign * (grades[first] - grades[second])
            known = math.isfinite(grades[first]) and math.isfinite(grades[second])
            yield (images[first], images[second]), (0.5 if lead == 0 else float(lead > 0)) if known else math.nan


class DistinctPrompts(DataSource):
    """The distinct prompts of a list, for methods that sample their own images."""

    provides = frozenset({"prompts"})

    def __init__(self, name: str) -> None:
        self.name = name
        self.num_filtered: Counter[str] = Counter()

    @abstractmethod
    def read(self) -> list[str]:
        """Return all prompts of the list, in order."""

    @cached_property
    def prompts(self) -> list[str]:  # pyright: ignore[reportIncompatibleMethodOverride]
        texts = self.read()
        filled = [text for text in texts if text.strip()]
        distinct = list(dict.fromkeys(filled))
        counts = {"empty prompt": len(texts) - len(filled), "repeated prompt": len(filled) - len(distinct)}
        self.num_filtered.update({reason: count for reason, count in counts.items() if count})
        return distinct

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(self.prompts).encode()).hexdigest()

    def view(self, kind: Kind) -> Sequence[PromptSample]:
        if kind != "prompts":
            raise ValueError(f"data={self.name} has prompts only, no {kind}")
        return View(self.prompts, PromptSample)


class Prompts(DistinctPrompts):
    """The distinct prompts of a file (.txt, .jsonl, .csv).

    Args:
        name: as typed in `data=`.
        path: the file; see `alignbench.data.prompts.read_prompts`.
    """

    def __init__(self, name: str, path: str) -> None:
        super().__init__(name)
        self.records = read_prompts(path)  # a file that cannot be read is refused at once

    def read(self) -> list[str]:
        return [record.prompt for record in self.records]


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be text")
    return value


def _number(value: Any, name: str) -> float:
    """Return a number; in .csv it is given as text. NaN if there is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | None):
        raise ValueError(f"{name} must be a number")
    return number_or_nan(value)


def _why(error: Exception) -> str:
    return f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
