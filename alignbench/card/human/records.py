"""Images that people judged, as data sets give them to a card: groups of images of a prompt, and what each is worth."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alignbench.errors import UserError
from alignbench.images import read_picture, scorable
from alignbench.text import keyed

Floats = NDArray[np.float64]
Picture = Path | bytes | Image.Image  # a file, the content of one, or what was rendered


@dataclass(frozen=True)
class Record:
    """Images of one prompt that people compared with each other.

    Attributes:
        images: two or more.
        worth: what people think of each, [N]; the higher the better, equal is a tie.
        group: part of the data set, whose accuracy is shown by itself; empty for none.
        vote: of two images, the vote in words where there are more than three; see `alignbench.card.rules`.
        chance: probability that a person prefers the row's image to the column's, [N, N]; None where it is not known.
    """

    prompt: str
    images: tuple[Picture, ...]
    worth: Floats
    group: str = ""
    vote: str = ""
    chance: Floats | None = None


@dataclass(frozen=True)
class Pairs:
    """All pairs of images of records, in their order.

    Attributes:
        record, first, second: numbers of the record and of its two images, [P].
        worth: of the first image minus that of the second, [P].
        chance: probability that a person prefers the first, [P].
    """

    record: NDArray[np.intp]
    first: NDArray[np.intp]
    second: NDArray[np.intp]
    worth: Floats
    chance: Floats

    @classmethod
    def of(cls, records: Sequence[Record]) -> "Pairs":
        parts: list[tuple[NDArray, ...]] = []
        for number, record in enumerate(records):
            first, second = np.triu_indices(len(record.images), 1)
            worth = record.worth[first] - record.worth[second]
            chance = 0.5 + np.sign(worth) / 2 if record.chance is None else record.chance[first, second]
            parts.append((np.full(len(first), number), first, second, worth, chance))
        return cls(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def some(self, chosen: NDArray) -> "Pairs":
        """Return pairs by their numbers, or those for which a mask is true."""
        return Pairs(*(column[chosen] for column in vars(self).values()))


class HumanPairs(ABC):
    """A data set of images that people judged. Its annotations are read when they are first needed.

    Attributes:
        name: as tables call it.
        published: year and month in which it was published, as in 2025-12; cards lead with the newest.
        own_rule: the rule of its publication, see `alignbench.card.rules`.
        in_domain: evaluators that learned from the training part of it, or from the same people, by the beginnings of
            their names.
        is_of_people: False where a program is the truth.
        has_scale: whether what images of two prompts are worth can be compared; ranks cannot.
    """

    name: ClassVar[str]
    published: ClassVar[str]
    own_rule: ClassVar[str]
    in_domain: ClassVar[tuple[str, ...]] = ()
    is_of_people: ClassVar[bool] = True
    has_scale: ClassVar[bool] = False

    @abstractmethod
    def read(self) -> list[Record]:
        """Return all records.

        Raises:
            UserError: the annotations are missing or are not as published.
        """

    @cached_property
    def records(self) -> list[Record]:
        found = self.read()
        if not any(len(record.images) > 1 for record in found):
            raise UserError(f"{self.name} has no two images of one prompt")
        return [record for record in found if len(record.images) > 1]

    def chosen(self, num_prompts: int | None) -> list[Record]:
        """Return the records of some prompts, drawn by their texts: a larger number keeps those of a smaller one."""
        texts = list(dict.fromkeys(record.prompt for record in self.records))
        if num_prompts is None or num_prompts >= len(texts):
            return self.records
        kept = set(sorted(texts, key=keyed)[:num_prompts])
        return [record for record in self.records if record.prompt in kept]

    def is_in_domain(self, lineage: Sequence[str]) -> bool:
        """Say whether an evaluator, or one whose judgement it learned from, learned from these data."""
        return any(name.startswith(self.in_domain) for name in lineage) if self.in_domain else False


def digest(records: Sequence[Record]) -> str:
    """Return a digest of prompts and labels: figures over other pairs are not compared."""
    found = hashlib.sha256()
    for record in records:
        found.update(f"{record.prompt}\0{len(record.images)}\0{record.vote}\0".encode() + record.worth.tobytes())
    return found.hexdigest()[:16]


def spread_within(scores: Sequence[Floats]) -> float:
    """Return the standard deviation between images of one prompt, from the scores of all records, pooled.

    The unit of all gains: how much scores differ between prompts does not count, and for some scorers it is most of it.
    """
    deviations = sum(float(((one - one.mean()) ** 2).sum()) for one in scores)
    degrees = sum(len(one) - 1 for one in scores)
    return float(np.sqrt(deviations / degrees)) if degrees else 0.0


def picture(image: Picture) -> Image.Image:
    """Return the picture of a record.

    Raises:
        UserError: it cannot be read.
    """
    if isinstance(image, Image.Image):
        return image
    return scorable(image) if isinstance(image, bytes) else read_picture(image)


def files_in(folder: Path, names: Sequence[str], setting: str) -> tuple[Path, ...]:
    """Return the files of a record; those of other folders are refused.

    Args:
        setting: the key that the folder was given by.

    Raises:
        UserError: a name leads out of the folder, or there is no such file.
    """
    found = []
    for name in names:
        file = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(f"the annotations name {name}, which is not within {setting}={folder}")
        if not os.path.isfile(file):  # which is false for a name that no file can have
            raise UserError(f"{file} does not exist; {setting} must be the folder with the images of the data set")
        found.append(file)
    return tuple(found)
