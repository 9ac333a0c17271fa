"""Data of your own: a folder of image pairs, or a file of prompts."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from alignbench.data.prompts import read_prompts
from alignbench.data.source import (
    DataSource,
    Kind,
    LazyPicture,
    Mixed,
    Pair,
    PairSource,
    Picture,
    Posterior,
    PromptSample,
    View,
    decide,
)
from alignbench.errors import UserError

LIST = "pairs.jsonl"


class LocalPairs(PairSource):
    """Pairs listed in `pairs.jsonl` of a folder, one JSON object a line.

    Each has a prompt and either image_w, image_l and optionally probability_w (0.5..1), or image_0, image_1 and
    label_0: the probability that image_0 is preferred, 1 or 0 for a vote and 0.5 for a tie, as in Pick-a-Pic. Images
    are paths relative to the folder. Ties, and pairs of which an image cannot be read, are dropped and counted.

    Args:
        name: as typed in `data=`.
        path: the folder.
        mixed: see `PairSource`.
        posterior: see `DataSource`.
    """

    def __init__(self, name: str, path: str, mixed: Mixed, posterior: Posterior) -> None:
        self.name = name
        self.folder = Path(path)
        self.mixed = mixed
        self.posterior = posterior
        self.dropped: Counter[str] = Counter()
        self._decided = list(self._read())
        if not self._decided:
            raise UserError(f"{self.folder / LIST} holds no pair with a preference{self._because()}")

    @cached_property
    def prompts(self) -> list[str]:
        return list(dict.fromkeys(pair.prompt for pair in self._decided))

    @cached_property
    def pairs(self) -> Sequence[Pair]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The pairs whose images can both be read. Every image is decoded once to know; then counts are final."""
        self._hashes = {key: self._hash(key) for pair in self._decided for key in (pair.key_w, pair.key_l)}
        kept = [pair for pair in self._decided if self._hashes[pair.key_w] and self._hashes[pair.key_l]]
        if len(kept) < len(self._decided):
            self.dropped["unreadable image"] = len(self._decided) - len(kept)
        if not kept:
            raise UserError(f"{self.folder / LIST} holds no pair whose images can be read{self._because()}")
        return kept

    @cached_property
    def fingerprint(self) -> str:
        content = [
            [pair.prompt, self._hashes[pair.key_w], self._hashes[pair.key_l], pair.probability_w] for pair in self.pairs
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def picture(self, key: str) -> Picture:
        return LazyPicture(key, partial(_decode, self.folder / key))

    def address(self, key: str) -> str:
        assert self.pairs  # every image was read for them
        return str(self._hashes[key])

    def _because(self) -> str:
        return f": {self.summary()}" if self.dropped else ""

    def _hash(self, key: str) -> str | None:
        try:
            _decode(self.folder / key)
        except (OSError, UnidentifiedImageError, SyntaxError, ValueError):  # what Pillow raises for broken files
            return None
        return hashlib.sha256((self.folder / key).read_bytes()).hexdigest()

    def _read(self) -> Iterator[Pair]:
        file = self.folder / LIST
        if not file.is_file():
            raise UserError(f"data.path={self.folder} holds no {LIST}")
        for number, line in enumerate(file.read_text("utf-8").split("\n"), 1):
            if not line.strip():
                continue
            try:
                pair = decide(*_fields(json.loads(line)))
            except (ValueError, TypeError, KeyError) as error:
                raise UserError(f"line {number} of {file} is not a pair: {_why(error)}") from None
            if pair is None:
                self.dropped["tie"] += 1
            else:
                yield pair


class Prompts(DataSource):
    """The distinct prompts of a file (.txt, .jsonl, .csv), for methods that sample their own images.

    Args:
        name: as typed in `data=`.
        path: the file, see `alignbench.data.prompts.read_prompts`.
    """

    provides = frozenset({"prompts"})

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        texts = [record.prompt for record in read_prompts(path)]
        self._prompts = list(dict.fromkeys(texts))
        self.dropped = Counter(
            {"repeated prompt": len(texts) - len(self._prompts)} if len(texts) > len(self._prompts) else {}
        )

    @property
    def prompts(self) -> list[str]:
        return self._prompts

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(self._prompts).encode()).hexdigest()

    def view(self, kind: Kind) -> Sequence[PromptSample]:
        if kind != "prompts":
            raise ValueError(f"data={self.name} has prompts only, not {kind}")
        return View(self._prompts, PromptSample)


def _fields(row: Any) -> tuple[str, str, str, float]:
    """Return prompt, two images, and the probability that the first is preferred."""
    if not isinstance(row, dict):
        raise ValueError("expected an object")
    if "image_w" in row:
        images, label, name = (row["image_w"], row["image_l"]), row.get("probability_w", 1.0), "probability_w"
        if not 0.5 <= label <= 1.0:
            raise ValueError(f"probability_w={label} must lie in 0.5..1")
    else:
        images, label, name = (row["image_0"], row["image_1"]), row["label_0"], "label_0"
        if not 0.0 <= label <= 1.0:
            raise ValueError(f"label_0={label} must lie in 0..1")
    if not all(isinstance(text, str) for text in (row["prompt"], *images)):
        raise ValueError("prompt and images must be texts")
    if isinstance(label, bool):
        raise ValueError(f"{name} must be a number")
    return row["prompt"], *images, float(label)


def _why(error: Exception) -> str:
    return f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)


def _decode(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))
