"""The rows of a data set before any image is read: prompts, image numbers and labels, as columns."""

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class SampleTable:
    """Rows of a data set. Each has a pair of images or a single image. A million rows take about 40 MB.

    Attributes:
        texts: the distinct prompts, in order of appearance.
        prompt: index of each row's prompt in `texts`, [N], int32.
        images: numbers of each row's images in the image store, [N, 2] or [N, 1], int64.
        label: [N], float64. For a pair, the probability that the first image is preferred; for a single image, 1 if it
            is desirable, 0 if it is not, and 0.5 if it is labelled as both. NaN if there is no label.
    """

    texts: list[str]
    prompt: np.ndarray
    images: np.ndarray
    label: np.ndarray

    def __len__(self) -> int:
        return len(self.prompt)

    def rows(self, chosen: np.ndarray) -> "SampleTable":
        """Return some rows, given a mask or an array of indices."""
        return replace(self, prompt=self.prompt[chosen], images=self.images[chosen], label=self.label[chosen])

    def without(self, wrong: np.ndarray, reason: str, num_filtered: Counter[str]) -> "SampleTable":
        """Return the rows that are not `wrong`, [N], bool; count the others in `num_filtered` under `reason`."""
        count = int(wrong.sum())
        if not count:
            return self
        num_filtered[reason] += count
        return self.rows(~wrong)

    @property
    def used_texts(self) -> list[str]:
        """The prompts that occur in the rows, in order of appearance."""
        _, first = np.unique(self.prompt, return_index=True)
        return [self.texts[self.prompt[row]] for row in np.sort(first)]


class SampleTableBuilder:
    """Collects a `SampleTable` row by row, with little memory.

    Args:
        width: number of images in a row.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self._texts: dict[str, int] = {}
        self._prompt, self._images, self._label = array("i"), array("q"), array("d")

    def add(self, prompt: str, images: Iterable[int], label: float) -> None:
        """Add a row; see `SampleTable`."""
        self._prompt.append(self._texts.setdefault(prompt, len(self._texts)))
        self._images.extend(images)
        self._label.append(label)

    def table(self) -> SampleTable:
        """Return the table of all rows added so far."""
        return SampleTable(
            list(self._texts),
            np.array(self._prompt, np.int32),
            np.array(self._images, np.int64).reshape(-1, self.width),
            np.array(self._label, np.float64),
        )
