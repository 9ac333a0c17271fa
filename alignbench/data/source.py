"""What a data source offers to training: samples of five kinds, counts of filtered samples, and a fingerprint."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self

import numpy as np

from alignbench.crop import CropSpec, Size
from alignbench.data.storage.read_blocks import Blocks
from alignbench.diffusion.initial_noise import InitialNoise
from alignbench.errors import UserError
from alignbench.settings.data import Mixed, Posterior

Kind = Literal["prompts", "images", "labels", "pairs", "generated_pairs"]

_KINDS: dict[str, Kind] = {
    "PromptBatch": "prompts",
    "ImageBatch": "images",
    "LabelledBatch": "labels",
    "PairBatch": "pairs",
    "GeneratedPairBatch": "generated_pairs",
}


def kind_of(batch_type: type) -> Kind:
    """Return the kind of samples from which a batch of a method's `batch_type` is made."""
    return _KINDS[batch_type.__name__]


@dataclass(frozen=True, eq=False)
class TrainingImage:
    """One image of the training data.

    Attributes:
        key: names the image within its source; two images with one key have the same pixels.
        pixels: uint8, [H, W, 3]; of a video [T, H, W, 3].
        crop: which part of it training sees; None for the centre square at the resolution of the model.
    """

    key: str
    pixels: np.ndarray
    crop: CropSpec | None = None

    def with_crop(self, crop: CropSpec) -> Self:
        """Return the same image with another crop; this does not decode the image."""
        other = copy(self)
        vars(other)["crop"] = crop  # the class is frozen
        return other


class LazyTrainingImage(TrainingImage):
    """An image that is decoded when its pixels are first read. If its latents are cached, it is never decoded.

    Args:
        key: see `TrainingImage`.
        read: decodes the image. It is sent to the processes that read data, so it must be picklable and small, such
            as `partial(decode, path)`.
    """

    read: Callable[[], np.ndarray]

    def __init__(self, key: str, read: Callable[[], np.ndarray]) -> None:
        vars(self).update(key=key, read=read)  # the class is frozen

    @cached_property
    def pixels(self) -> np.ndarray:  # pyright: ignore[reportIncompatibleVariableOverride]
        """uint8, [H, W, 3]; of a video [T, H, W, 3]."""
        return self.read()


@dataclass(frozen=True, eq=False)
class PromptSample:
    """A prompt, exactly as the data have it."""

    prompt: str


@dataclass(frozen=True, eq=False)
class ImageSample(PromptSample):
    """An image with its prompt."""

    image: TrainingImage


@dataclass(frozen=True, eq=False)
class LabelledSample(ImageSample):
    """An image that is labelled as desirable or not."""

    desirable: bool


@dataclass(frozen=True, eq=False)
class PairSample(PromptSample):
    """Two images of one prompt. `probability_w` is 0.5..1; it is 1 if only one vote is known."""

    image_w: TrainingImage
    image_l: TrainingImage
    probability_w: float


@dataclass(frozen=True, eq=False)
class GeneratedPairSample(PairSample):
    """Two images of one prompt that this program made, and the noise that each was made from."""

    noise_w: InitialNoise
    noise_l: InitialNoise


class DataSource(ABC):
    """Training data.

    Attributes:
        name: as typed in `data=`.
        provides: the kinds of samples that `view` can return.
        num_filtered: number of samples that were filtered out, by reason; complete after the first call of `view`.
        first_filtered: where the first image is that cannot be used, by reason.
        labelled_by: names of the evaluators whose scores or votes decided the labels.
        posterior: `mode` encodes an image as the mode of the VAE's posterior; `sample` draws new latents from the
            posterior each time the image is shown.
    """

    name: str
    provides: ClassVar[frozenset[Kind]]
    num_filtered: Counter[str]
    first_filtered: Mapping[str, str] = MappingProxyType({})
    labelled_by: tuple[str, ...] = ()
    posterior: Posterior = "mode"

    @property
    @abstractmethod
    def prompts(self) -> list[str]:
        """The distinct prompts that training may show, in order of appearance. Decodes no image."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of prompts, pixels and labels. Equal data have equal fingerprints."""

    def address(self, key: str) -> str:
        """Return a name for an image, given its key, that is unique over all data sources. Caches use it as their key.

        A source that knows the digest of a single image returns the digest, so that every data set with this image
        shares one cache entry.
        """
        return f"{self.fingerprint}/{key}"

    def identity(self, key: str) -> str:
        """Return a name for an image, given its key, that other data sets with the same image give it as well."""
        return self.address(key)

    def identities(self, kind: Kind) -> set[str]:
        """Return the identities of all images of a view, and the fingerprint of the data where it has any."""
        images = {image.key for sample in self.view(kind) for image in images_of(sample)}
        return self.identities_of(images)

    def identities_of(self, keys: Set[str]) -> set[str]:
        """Return the identities of images by their keys, and the fingerprint of the data where there are any."""
        return {*map(self.identity, keys), self.fingerprint} if keys else set()

    def size(self, image: TrainingImage) -> Size:
        """Return height and width of an image of this source in pixels. Some sources know them without decoding it."""
        height, width, _ = image.pixels.shape[-3:]
        return height, width

    def note_damaged(self, keys: Sequence[str]) -> bool:
        """Leave images that could not be decoded out from now on, where this source is built anew; say whether it can.

        Args:
            keys: of these images.
        """
        del keys
        return False

    @abstractmethod
    def view(self, kind: Kind) -> Sequence[PromptSample]:
        """Return all samples of one of the kinds that this source `provides`.

        prompts: each distinct prompt once. pairs: two images of a prompt. images: the winners. labels: every image
        with its label, as a `LabelledView`. generated_pairs: as pairs, with the noise that each image was made from.
        """

    def summary(self) -> str:
        """Say how many samples were filtered out and why, with the first unusable image; empty if there are none."""
        first = {reason: f", the first is {location}" for reason, location in self.first_filtered.items()}
        counts = sorted(self.num_filtered.items())
        return ", ".join(f"{count} filtered out ({reason}{first.get(reason, '')})" for reason, count in counts)


def with_same_crop(sample: PromptSample, crop: CropSpec) -> PromptSample:
    """Return a sample whose images all have one crop."""
    images = {name: value for name, value in vars(sample).items() if isinstance(value, TrainingImage)}
    return replace(sample, **{name: image.with_crop(crop) for name, image in images.items()})


def images_of(sample: PromptSample) -> list[TrainingImage]:
    """Return the images of a sample, the winner first. None of them is decoded."""
    return [value for value in vars(sample).values() if isinstance(value, TrainingImage)]


@dataclass(frozen=True)
class View(Sequence[PromptSample]):
    """Samples that are made when they are read.

    Attributes:
        items: one entry for each sample, from which the sample is made.
        make: turns an item into its sample.
        blocks: which samples are read together; None if every order costs the same.
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
    """Labelled samples whose labels are known before any image is read: the last element of an item is its label."""

    @property
    def desirable(self) -> list[bool]:
        """The label of each sample."""
        return [item[-1] for item in self.items]


@dataclass(frozen=True)
class Pair:
    """A pair before its images are decoded: their keys, and the probability that the winner is preferred."""

    prompt: str
    key_w: str
    key_l: str
    probability_w: float


def decide(prompt: str, key_0: str, key_1: str, label_0: float) -> Pair | None:
    """Return the pair with its winner first, or None for a tie.

    Args:
        label_0: probability that the first image is preferred: 1 or 0 if one vote is known, 0.5 for a tie.

    Raises:
        ValueError: label_0 is no probability.
    """
    if not 0.0 <= label_0 <= 1.0:
        raise ValueError(f"label_0={label_0} must lie in 0..1")
    if label_0 == 0.5:
        return None
    return Pair(prompt, key_0, key_1, label_0) if label_0 > 0.5 else Pair(prompt, key_1, key_0, 1.0 - label_0)


class PairSource(DataSource):
    """Data that consist of pairs; the other kinds of samples are derived from the pairs.

    Attributes:
        mixed: the label of an image that won one pair of its prompt and lost another: desirable or undesirable;
            `dropped` leaves such images out.
    """

    provides = frozenset({"prompts", "images", "labels", "pairs"})
    mixed: Mixed

    @property
    @abstractmethod
    def pairs(self) -> Sequence[Pair]:
        """The pairs that were not filtered out."""

    @abstractmethod
    def image(self, key: str) -> TrainingImage:
        """Return an image of the pairs by its key."""

    def law(self, pair: Pair) -> float | None:
        """Return the true probability that the winner is preferred; None if it is not known how labels were made."""
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
        raise UserError(f"data={self.name} has pairs, not {kind}")

    def identities(self, kind: Kind) -> set[str]:
        """See `DataSource.identities`; the pairs alone are read, so no image is drawn or decoded."""
        match kind:
            case "prompts":
                return set()
            case "images":
                return self.identities_of({pair.key_w for pair in self.pairs})
            case "labels" | "pairs" | "generated_pairs":
                return self.identities_of({key for pair in self.pairs for key in (pair.key_w, pair.key_l)})

    def _winner(self, pair: Pair) -> ImageSample:
        return ImageSample(pair.prompt, self.image(pair.key_w))

    def _labelled(self, item: tuple[str, str, bool]) -> LabelledSample:
        prompt, key, desirable = item
        return LabelledSample(prompt, self.image(key), desirable)

    def _pair(self, pair: Pair) -> PairSample:
        return PairSample(pair.prompt, self.image(pair.key_w), self.image(pair.key_l), pair.probability_w)


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
