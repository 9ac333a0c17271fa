"""What training data offer: samples of four kinds, counts of what was left out, and a fingerprint."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

import numpy as np

from alignbench.crop import CropSpec, Size
from alignbench.data.storage.read_blocks import Blocks
from alignbench.settings.data import Mixed, Posterior

Kind = Literal["prompts", "images", "labels", "pairs"]
_KINDS: dict[str, Kind] = {
    "PromptBatch": "prompts",
    "ImageBatch": "images",
    "LabelledBatch": "labels",
    "PairBatch": "pairs",
}


def kind_of(batch_type: type) -> Kind:
    """Return the kind of samples that a method's `batch_type` is made from."""
    return _KINDS[batch_type.__name__]


@dataclass(frozen=True, eq=False)
class Picture:
    """One image.

    Attributes:
        key: names the image within its source; two pictures with one key have the same pixels.
        pixels: uint8, [H, W, 3].
        cut: what training sees of it; None for the centre square at the resolution of the model.
    """

    key: str
    pixels: np.ndarray
    cut: CropSpec | None = None

    def with_cut(self, cut: CropSpec) -> Self:
        """Return the same image, not decoded for that, to be cut in another way."""
        other = copy(self)
        vars(other)["cut"] = cut  # frozen
        return other


class LazyPicture(Picture):
    """An image that is decoded when its pixels are first asked for; where its latents are known, that is never.

    Args:
        key: see `Picture`.
        read: decodes it. It travels between the processes that read data, so it is picklable and small, such as
            `partial(decode, path)`.
    """

    read: Callable[[], np.ndarray]

    def __init__(self, key: str, read: Callable[[], np.ndarray]) -> None:
        vars(self).update(key=key, read=read)  # Picture is frozen

    @cached_property
    def pixels(self) -> np.ndarray:  # pyright: ignore[reportIncompatibleVariableOverride]
        """uint8, [H, W, 3]."""
        return self.read()


@dataclass(frozen=True, eq=False)
class PromptSample:
    """A prompt, as written in the data."""

    prompt: str


@dataclass(frozen=True, eq=False)
class ImageSample(PromptSample):
    """An image to learn from, with its prompt."""

    image: Picture


@dataclass(frozen=True, eq=False)
class LabelledSample(ImageSample):
    """An image that people did or did not want."""

    desirable: bool


@dataclass(frozen=True, eq=False)
class PairSample(PromptSample):
    """Two images of one prompt. `probability_w` is 0.5..1, and 1 where only a vote is known."""

    image_w: Picture
    image_l: Picture
    probability_w: float


class DataSource(ABC):
    """Training data.

    Attributes:
        name: as typed in `data=`.
        provides: the kinds of samples that `view` can give.
        dropped: how many samples were left out, by reason; complete once a view was taken.
        judged_by: names of the evaluators whose judgement the labels are.
        posterior: whether images are encoded as the mode of the VAE's posterior, or as a draw of it, new at each visit.
    """

    name: str
    provides: ClassVar[frozenset[Kind]]
    dropped: Counter[str]
    judged_by: tuple[str, ...] = ()
    posterior: Posterior = "mode"

    @property
    @abstractmethod
    def prompts(self) -> list[str]:
        """The distinct prompts that training may see, in order of appearance. Decodes no image."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of prompts, pixels and labels: equal data have equal fingerprints."""

    def address(self, key: str) -> str:
        """Name the pixels of a picture among those of all data: what is computed from them is kept under it.

        A source that knows the digest of a single image returns that, so that other data with it share what is kept.
        """
        return f"{self.fingerprint}/{key}"

    def size(self, picture: Picture) -> Size:
        """Return height and width of one of its pictures in pixels; a source may know them without decoding it."""
        height, width, _ = picture.pixels.shape
        return height, width

    @abstractmethod
    def view(self, kind: Kind) -> Sequence[PromptSample]:
        """Return the samples of one kind, of which this source `provides` the kind.

        prompts: each distinct prompt once. pairs: two images of a prompt. images: the winners. labels: every image,
        with whether it is desirable, as a `LabelledView`.
        """

    def summary(self) -> str:
        """Say in a few words what was left out and why."""
        return ", ".join(f"{count} dropped ({reason})" for reason, count in sorted(self.dropped.items()))


def cut_alike(sample: PromptSample, cut: CropSpec) -> PromptSample:
    """Return a sample whose pictures are all cut in one way."""
    pictures = {name: value for name, value in vars(sample).items() if isinstance(value, Picture)}
    return replace(sample, **{name: picture.with_cut(cut) for name, picture in pictures.items()})


def pictures_of(sample: PromptSample) -> list[Picture]:
    """Return the pictures of a sample, the winner first; none of them is decoded for that."""
    return [value for value in vars(sample).values() if isinstance(value, Picture)]


@dataclass(frozen=True)
class View(Sequence[PromptSample]):
    """Samples that are made when they are asked for.

    Attributes:
        items: what is known of each sample beforehand.
        make: turns an item into its sample.
        blocks: which samples are read together; None where any order costs the same.
    """

    items: Sequence[Any]
    make: Callable[[Any], PromptSample]
    blocks: Blocks | None = None

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, position: int) -> PromptSample:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.make(self.items[position])


@dataclass(frozen=True)
class LabelledView(View):
    """Labelled samples, of which the label is known before an image is made: an item ends with it."""

    @property
    def desirable(self) -> list[bool]:
        """The label of each sample."""
        return [item[-1] for item in self.items]


@dataclass(frozen=True)
class Pair:
    """What is known of a pair before its images are decoded: their keys, and how probable the preference is."""

    prompt: str
    key_w: str
    key_l: str
    probability_w: float


def decide(prompt: str, key_0: str, key_1: str, label_0: float) -> Pair | None:
    """Return the pair with its winner first, or None for a tie.

    Args:
        label_0: probability that the first image is preferred: 1 or 0 where one vote is known, 0.5 for a tie.
    """
    if label_0 == 0.5:
        return None
    return Pair(prompt, key_0, key_1, label_0) if label_0 > 0.5 else Pair(prompt, key_1, key_0, 1.0 - label_0)


class PairSource(DataSource):
    """Data that consist of pairs; the other kinds of samples follow from them.

    Attributes:
        mixed: what an image is that won one pair of its prompt and lost another: desirable, undesirable or dropped.
    """

    provides = frozenset({"prompts", "images", "labels", "pairs"})
    mixed: Mixed

    @property
    @abstractmethod
    def pairs(self) -> Sequence[Pair]:
        """The pairs that were kept."""

    @abstractmethod
    def picture(self, key: str) -> Picture:
        """Return an image of the pairs."""

    def law(self, pair: Pair) -> float | None:
        """Return how probable it is that the winner is preferred, by the law that made the labels; None: unknown."""
        del pair
        return None

    def view(self, kind: Kind) -> Sequence[PromptSample]:
        match kind:
            case "prompts":
                return [PromptSample(prompt) for prompt in self.prompts]
            case "images":
                return View(self.pairs, self._winner)
            case "labels":
                return LabelledView(labels(self.pairs, self.mixed), self._labelled)
            case "pairs":
                return View(self.pairs, self._pair)

    def _winner(self, pair: Pair) -> ImageSample:
        return ImageSample(pair.prompt, self.picture(pair.key_w))

    def _labelled(self, item: tuple[str, str, bool]) -> LabelledSample:
        prompt, key, desirable = item
        return LabelledSample(prompt, self.picture(key), desirable)

    def _pair(self, pair: Pair) -> PairSample:
        return PairSample(pair.prompt, self.picture(pair.key_w), self.picture(pair.key_l), pair.probability_w)


def labels(pairs: Sequence[Pair], mixed: Mixed) -> list[tuple[str, str, bool]]:
    """Return (prompt, key, desirable) of each distinct image of each prompt, in order of appearance.

    Source: Diffusion-KTO, where `mixed` is called gt_label_wi_l (desirable), gt_label_w_il and gt_label_w_l.
    """
    won = {(pair.prompt, pair.key_w) for pair in pairs}
    lost = {(pair.prompt, pair.key_l) for pair in pairs}
    images = dict.fromkeys((pair.prompt, key) for pair in pairs for key in (pair.key_w, pair.key_l))
    both = won & lost
    return [
        (*image, (mixed == "desirable") if image in both else image in won)
        for image in images
        if not (mixed == "dropped" and image in both)
    ]
