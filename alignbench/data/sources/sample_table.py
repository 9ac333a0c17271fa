"""What a data set says of its images before one of them is read: prompts, numbers of images, and labels, as columns."""

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class SampleTable:
    """Rows of a data set: pairs of images, or single ones. A million of them take about 40 MB.

    Attributes:
        texts: the distinct prompts, in order of appearance.
        prompt: of each row, as a place in `texts`, [N], int32.
        images: of each row, as numbers of the store, [N, 2] or [N, 1], int64.
        label: of a pair, the probability that the first is preferred; of a single image, 1 where it is desirable, 0
            where not, 0.5 where both was said; NaN where nothing was said. [N], float64.
    """

    texts: list[str]
    prompt: np.ndarray
    images: np.ndarray
    label: np.ndarray

    def __len__(self) -> int:
        return len(self.prompt)

    def rows(self, chosen: np.ndarray) -> "Table":
        """Return the rows that a mask or an array of places names."""
        return replace(self, prompt=self.prompt[chosen], images=self.images[chosen], label=self.label[chosen])

    def without(self, wrong: np.ndarray, reason: str, num_filtered: Counter[str]) -> "Table":
        """Return the rows that are not `wrong`, [N], bool, and count those that are."""
        count = int(wrong.sum())
        if not count:
            return self
        num_filtered[reason] += count
        return self.rows(~wrong)

    @property
    def used_texts(self) -> list[str]:
        """The prompts that rows have, in order of appearance."""
        _, first = np.unique(self.prompt, return_index=True)
        return [self.texts[self.prompt[row]] for row in np.sort(first)]


class SampleTableBuilder:
    """Gathers a `SampleTable` row by row, in little memory.

    Args:
        width: images in a row.
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
        """Return what was gathered."""
        return SampleTable(
            list(self._texts),
            np.array(self._prompt, np.int32),
            np.array(self._images, np.int64).reshape(-1, self.width),
            np.array(self._label, np.float64),
        )
