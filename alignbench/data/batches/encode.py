"""Encode prompts and images for training: text features and latents, the same on any number of processes."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from alignbench.batch import Conditioning
from alignbench.context import Context
from alignbench.crop import CropBox, CropSpec
from alignbench.data.batches.feature_cache import Caches, picture_key, prompt_key
from alignbench.data.batches.fixed_batches import filled, places_are_alike
from alignbench.data.source import TrainingImage
from alignbench.data.storage.tensor_store import Entry, TensorStore, num_bytes
from alignbench.errors import UserError
from alignbench.models.adapter import ModelAdapter
from alignbench.settings.data import Posterior

TEST_WORDS = "a red circle left of a blue square above two green stars".split()  # prompts of a test batch begin so


class NotStoredError(Exception):
    """A network is needed for a prompt or an image that is neither in memory nor in a cache."""


class Encoder:
    """Encodes prompts and images, and keeps the results in memory.

    Encoders are called with batches of one size, or with one entry at a time. The last bits of a result depend on the
    size of its batch (by 7e-6 for the VAE of the miniatures on a CPU). With batches of any size, a resumed run would
    differ from an uninterrupted one, and a run of two processes from a run of one.

    Args:
        posterior: `mode` gives an image the same latents each time it is shown; `sample` draws new ones each time,
            keyed by the global sample index.
        max_bytes: main memory that features of prompts may take, and again that images encoded here may take; the
            least recently used are removed first.
        caches: encoded prompts and images on disk. Images are read each time, prompts if they are not in memory;
            neither is written here.
        address: returns a name of an image, given its key, that is unique over all data sources.
        true_size: whether the conditioning holds the original size and the crop of each image.

    Raises:
        UserError: if draws are asked for and the VAE has no posterior.
    """

    def __init__(
        self,
        model: ModelAdapter,
        posterior: Posterior = "mode",
        max_bytes: int = 2 * 2**30,
        caches: Caches | None = None,
        address: Callable[[str], str] = str,
        true_size: bool = False,
    ) -> None:
        if posterior == "sample" and not model.has_posterior:
            raise UserError(
                "data.posterior=sample draws from the posterior of the VAE, and that of a "
                f"{model.pipeline_class} has none; set data.posterior=mode"
            )
        self.model = model
        self.posterior = posterior
        self.true_size = true_size
        self.caches = caches
        self.centre = CropSpec((model.resolution, model.resolution))  # of images without a crop of their own
        self.cached_latents = CachedLatents(caches.latents if caches else None, address, self.centre)
        self._prompts = _Memory(max_bytes)
        self._images = _Memory(max_bytes)
        self._places_are_alike: dict[tuple[int, ...], bool] = {}  # in a batch of images, by the shape of one

    def prompts(self, texts: Sequence[str], encode: bool = True) -> Conditioning:
        """Return the features of each text, on the CPU.

        Args:
            encode: whether the text encoders may be called; if not, `NotStoredError` is raised where they are needed.
        """
        found = {text: self._prompts.find(text) for text in texts}
        unknown = [text for text, entry in found.items() if entry is None]
        if self.caches is not None:
            found |= zip(unknown, self.caches.prompts.read([prompt_key(text) for text in unknown]), strict=True)
        missing = [text for text in unknown if found[text] is None]
        if missing and not encode:
            raise NotStoredError
        made = dict(zip(missing, self.encode_prompts(missing), strict=True))
        entries = {text: entry or made[text] for text, entry in found.items()}
        for text in unknown:
            self._prompts.keep(text, entries[text])
        rows = {text: Conditioning(**{name: value[None] for name, value in entries[text].items()}) for text in entries}
        return Conditioning.cat([rows[text] for text in texts])

    def images(self, images: Sequence[TrainingImage], encode: bool = True) -> list[Entry]:
        """Return what `encode_images` returns; all cached entries are read together.

        Args:
            encode: whether the VAE may be called; if not, `NotStoredError` is raised where it is needed.
        """
        stored = self.cached_latents.read(images)
        others = {self._name(image): image for image, entry in zip(images, stored, strict=True) if entry is None}
        known = {name: entry for name in others if (entry := self._images.find(name)) is not None}
        missing = [name for name in others if name not in known]
        if missing and not encode:
            raise NotStoredError
        for name, entry in zip(missing, self.encode_images([others[name] for name in missing]), strict=True):
            known[name] = self._images.keep(name, entry)
        return [entry or known[self._name(image)] for image, entry in zip(images, stored, strict=True)]

    def must_decode(self, image: TrainingImage) -> bool:
        """Say whether the pixels of an image are needed, as its latents are neither cached nor in memory."""
        return self._name(image) not in self._images and self.cached_latents.is_missing(image)

    def _name(self, image: TrainingImage) -> str:
        return f"{image.key} {(image.crop or self.centre).name}"

    def latents(self, encoded: Sequence[Entry], index: Tensor, context: Context) -> Tensor:
        """Return the latents of encoded images, on the CPU.

        Args:
            encoded: the first image of each sample, then, for pairs, the second image of each sample. Both images of a
                pair have the same draw.
            index: global index of each sample.
        """
        mean = torch.stack([one["mean"] for one in encoded])
        if self.posterior == "mode":
            return self.model.latents_of(mean)
        draws = [context.sample_generator(i, "vae") for i in index.tolist()]
        noise = torch.stack([torch.randn(mean.shape[1:], generator=draw, dtype=mean.dtype) for draw in draws])
        noise = torch.cat([noise] * (len(encoded) // len(index)))
        return self.model.latents_of(mean, torch.stack([one["std"] for one in encoded]), noise)

    def with_crops(
        self, conditioning: Conditioning, images: Sequence[TrainingImage], encoded: Sequence[Entry]
    ) -> Conditioning:
        """Add each image's size and crop to the conditioning of its prompt.

        Args:
            images: one image for each row of `conditioning`.
            encoded: the same images as `images` returns them.
        """
        crops = [image.crop or self.centre for image in images]
        if self.true_size:
            sizes = [one["size"].tolist() for one in encoded]
            boxes = [crop.box(height, width) for crop, (height, width) in zip(crops, sizes, strict=True)]
        elif any(crop.size != self.centre.size for crop in crops):
            boxes = [CropBox.uncropped(crop.size) for crop in crops]
        else:
            return conditioning
        return self.model.with_crops(conditioning, boxes)

    @torch.no_grad()
    def encode_prompts(self, texts: Sequence[str]) -> list[Entry]:
        """Return the features of each prompt by their names in `Conditioning`, without a batch axis.

        An empty prompt is none: it has what guidance goes away from.
        """
        if not texts:
            return []
        self._refuse_missing_encoder(f"the prompt {texts[0]!r}", self.model.encodes_prompts)
        made = {"": _entries(vars(self.model.encode_no_prompt()))[0]} if "" in texts else {}
        given = [text for text in texts if text]
        size = self._prompts_per_call if given else 1
        for start in range(0, len(given), size):
            few = given[start : start + size]
            made |= zip(few, self._features(filled(few, size)), strict=False)
        return [made[text] for text in texts]

    @cached_property
    def _prompts_per_call(self) -> int:
        """`prompts_per_call` of the model; 1 where bits of a prompt depend on its place in the call."""
        size = self.model.prompts_per_call
        texts = [" ".join(TEST_WORDS[: number + 1]) for number in range(size)]
        return size if size == 1 or places_are_alike(self._features, texts) else 1

    def _features(self, texts: Sequence[str]) -> list[Entry]:
        return _entries(vars(self.model.encode_prompts(texts)))

    @torch.no_grad()
    def encode_images(self, images: Sequence[TrainingImage]) -> list[Entry]:
        """Return the VAE's posterior of the crop of each image, and the size of the whole image.

        Args:
            images: their crops have one size.

        Returns:
            `mean` and, if `posterior` is `sample`, `std`, [C, h, w], of a video [C, F, h, w]; `size`, original height
            and width, [2], int32.
        """
        if not images:
            return []
        self._refuse_missing_encoder(f"the image {images[0].key}", self.model.encodes_pixels)
        crops = [image.crop or self.centre for image in images]
        size = self._images_per_call((*images[0].pixels.shape[:-3], 3, *crops[0].size))
        made: list[Entry] = []
        for start in range(0, len(images), size):
            few = zip(images[start : start + size], crops[start : start + size], strict=True)
            made += self._posteriors(filled([fit(image, crop)[0] for image, crop in few], size))
        sizes = [torch.tensor(image.pixels.shape[-3:-1], dtype=torch.int32) for image in images]
        return [{**entry, "size": whole} for entry, whole in zip(made, sizes, strict=False)]

    def _images_per_call(self, shape: tuple[int, ...]) -> int:
        """Return `images_per_call` of the model; 1 where bits of an image depend on its place in the call.

        Args:
            shape: of the pixels of a crop, [3, H, W], of a video [T, 3, H, W].
        """
        size = self.model.images_per_call
        if size > 1 and shape not in self._places_are_alike:
            draws = torch.rand(size, *shape, generator=torch.Generator().manual_seed(0))
            self._places_are_alike[shape] = places_are_alike(self._posteriors, list(draws))
        return size if self._places_are_alike.get(shape) else 1

    def _posteriors(self, pixels: Sequence[Tensor]) -> list[Entry]:
        mean, std = self.model.encode_posterior(torch.stack(list(pixels)).to(self.model.device))
        return _entries({"mean": mean, "std": std} if self.posterior == "sample" else {"mean": mean})

    def _refuse_missing_encoder(self, what: str, has_encoder: bool) -> None:
        if not has_encoder:
            raise UserError(
                f"{what} is no longer in the cache, and the network that encodes it was not loaded; run the command "
                "again with prepare in stages"
            )


class CachedLatents:
    """The images whose latents are on disk. It is small, so that it can be sent to the processes that read data."""

    def __init__(self, store: TensorStore | None, address: Callable[[str], str], centre: CropSpec) -> None:
        self.store = store
        self.address = address
        self.centre = centre

    def read(self, images: Sequence[TrainingImage]) -> Sequence[Entry | None]:
        """Return the cached entry of each image, or None."""
        if self.store is None:
            return [None] * len(images)
        return self.store.read([self._key(image) for image in images])

    def is_missing(self, image: TrainingImage) -> bool:
        """Say whether an image is not cached, so that it must be decoded."""
        return self.store is None or self._key(image) not in self.store

    def _key(self, image: TrainingImage) -> bytes:
        return picture_key(self.address(image.key), image.crop or self.centre)


def fit(image: TrainingImage, crop: CropSpec) -> Tensor:
    """Return the crop of an image as pixels [1, 3, H, W] in 0..1; it is resized bilinearly with antialiasing.

    Of a video it is the same crop of all frames, [1, T, 3, H, W].

    Both images of a pair have one crop. The published loader of Diffusion-DPO draws a crop for each image, so that the
    two differ by more than what people compared.

    Source: Diffusion-DPO, train.py.
    """
    stored = torch.from_numpy(image.pixels).movedim(-1, -3)
    is_video = stored.ndim == 4
    pixels = (stored if is_video else stored[None]).float() / 255.0
    box = crop.box(*pixels.shape[-2:])
    if box.resized != box.original:
        size = list(box.resized)
        pixels = interpolate(pixels, size, mode="bilinear", antialias=True, align_corners=False).clamp(0.0, 1.0)
    if box.flipped:
        pixels = pixels.flip(-1)
    (top, left), (height, width) = box.corner, box.size
    cropped = pixels[..., top : top + height, left : left + width]
    return cropped[None] if is_video else cropped


def _entries(rows: Mapping[str, Tensor | None]) -> list[Entry]:
    """Split rows into entries on the CPU, each with memory of its own, so that it can be forgotten alone."""
    there = {name: tensor.cpu() for name, tensor in rows.items() if tensor is not None}
    return [
        {name: tensor.clone() for name, tensor in zip(there, row, strict=True)}
        for row in zip(*there.values(), strict=True)
    ]


class _Memory:
    """Entries by key; the least recently used are removed first."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self.values: OrderedDict[str, Entry] = OrderedDict()

    def find(self, key: str) -> Entry | None:
        """Return the entry of `key`, and count that as a use; None if there is none."""
        if key in self.values:
            self.values.move_to_end(key)
        return self.values.get(key)

    def keep(self, key: str, value: Entry) -> Entry:
        """Keep a new entry and return it."""
        self.values[key] = value
        self.num_bytes += num_bytes(value)
        while self.num_bytes > self.max_bytes and len(self.values) > 1:
            self.num_bytes -= num_bytes(self.values.popitem(last=False)[1])
        return value

    def __contains__(self, key: str) -> bool:
        return key in self.values
