"""Encode the prompts and images of a training before it starts; a killed pass continues where it stopped."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from alignbench.crop import CropSpec, Size
from alignbench.data.batches.aspect_buckets import Buckets
from alignbench.data.batches.crops import CropPolicy
from alignbench.data.batches.encode import Encoder
from alignbench.data.batches.feature_cache import Caches, picture_key, prompt_key
from alignbench.data.source import DataSource, PromptSample, TrainingImage, images_of, kind_of
from alignbench.data.storage.image_store import UnusableImageError
from alignbench.data.storage.tensor_store import Entry, TensorStore, num_bytes
from alignbench.errors import UserError
from alignbench.method import Method
from alignbench.models.adapter import ModelAdapter
from alignbench.terminal.signals import leave_signals_to_the_program
from alignbench.work_share import WorkShare

SHARD_BYTES = 64 * 2**20
MAX_ENTRIES = 1024  # entries in a shard: a killed process loses at most these
NUM_MEASURED = 8  # prompts that are encoded to see how large they are

T = TypeVar("T")


class CropRef(NamedTuple):
    """A crop of an image of a view.

    Attributes:
        key: key of its latents in the cache.
        position: position of the sample in the view.
        number: number of the image in the sample.
        crop: the crop.
    """

    key: bytes
    position: int
    number: int
    crop: CropSpec


@dataclass(frozen=True)
class RequiredFeatures:
    """The prompts and images that a method needs encoded.

    Attributes:
        prompts: the empty prompt, which dropout and guidance need, and all prompts of the data.
        view: the samples.
        crops: the distinct crops of all images, in order of appearance.
        has_unlimited_crops: whether each time an image is shown it has a new crop, so that none can be encoded before.
    """

    prompts: Sequence[str]
    view: Sequence[PromptSample]
    crops: Sequence[CropRef]
    has_unlimited_crops: bool = False

    @classmethod
    def of(cls, method: Method, data: DataSource, policy: CropPolicy, micro_batch_size: int = 1) -> "RequiredFeatures":
        """Return what a method needs of its data under a crop policy; no image is decoded.

        Args:
            micro_batch_size: number of samples that have one size if the policy has aspect buckets.
        """
        kind = kind_of(method.batch_type)
        view, prompts = data.view(kind), list(dict.fromkeys(["", *data.prompts]))
        if kind == "prompts" or policy.has_unlimited_crops:
            return cls(prompts, view, [], has_unlimited_crops=kind != "prompts")
        buckets = Buckets.of(data, view, policy.sizes, micro_batch_size) if policy.has_buckets else None
        crops: dict[bytes, CropRef] = {}
        for position in range(len(view)):
            size = policy.sizes[0] if buckets is None else buckets.size(position)
            for number, image in enumerate(images_of(view[position])):
                for crop in policy.all(size):
                    key = picture_key(data.address(image.key), crop)
                    crops.setdefault(key, CropRef(key, position, number, crop))
        return cls(prompts, view, list(crops.values()))

    def missing_prompts(self, caches: Caches) -> list[str]:
        """Return the prompts that are not encoded yet."""
        return [text for text in self.prompts if prompt_key(text) not in caches.prompts]

    def missing_crops(self, caches: Caches) -> list[CropRef]:
        """Return the crops that are not encoded yet."""
        return [crop for crop in self.crops if crop.key not in caches.latents]


def prompt_bytes(prompts: Sequence[str], encoder: Encoder) -> int:
    """Return the bytes that one encoded prompt takes: the mean over a few of them, as their lengths may differ."""
    few = prompts[:: -(-len(prompts) // NUM_MEASURED)]
    return sum(map(num_bytes, encoder.encode_prompts(few))) // len(few)


def latents_bytes(model: ModelAdapter, encoder: Encoder) -> int:
    """Return the bytes that one encoded image takes; with aspect buckets, the most that it takes."""
    return prod(model.latent_shape) * model.pipeline.vae.dtype.itemsize * (2 if encoder.posterior == "sample" else 1)


def refuse_too_little_space(folder: Path, wanted: float, instead: str = "train without prepare") -> None:
    """Refuse to write more than the disk has room for.

    Args:
        instead: what else can be done.

    Raises:
        UserError: fewer than `wanted` bytes are free on the disk of `folder`.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if wanted > free:
        raise UserError(
            f"prepare would write {wanted / 2**30:.1f} GiB to {folder}, and {free / 2**30:.1f} GiB are free; free "
            f"some space, choose another disk with results=DIR, or {instead}"
        )


def prepare(
    required: RequiredFeatures,
    encoder: Encoder,
    caches: Caches,
    work_share: WorkShare,
    num_workers: int = 0,
    progress: bool = True,
) -> list[UnusableImageError]:
    """Encode this process's share of the prompts and images that are missing from the caches.

    Groups of entries depend on `required` alone, and each missing group becomes one shard. So a killed pass that is
    repeated leaves the same folder as an uninterrupted pass; so do two passes that run at the same time.

    Args:
        num_workers: number of further processes that decode images.

    Returns:
        The images that cannot be decoded, each once. All others are encoded.
    """
    size = prompt_bytes(required.prompts, encoder)
    todo = _groups(required.prompts, prompt_key, caches.prompts, size, work_share)
    calls = [_calls(group, encoder.model.prompts_per_call) for group in todo]
    with _bar("prepare prompts", "prompt", todo, progress) as bar:
        _fill(caches.prompts, calls, prompt_key, map(encoder.encode_prompts, chain(*calls)), bar)

    size = latents_bytes(encoder.model, encoder)
    todo = _groups(required.crops, _key, caches.latents, size, work_share)
    calls = [_calls(group, encoder.model.images_per_call, _size) for group in todo]
    images = DataLoader(
        _Decoded(required.view, list(chain(*calls))),
        batch_size=None,
        num_workers=num_workers,
        collate_fn=_unchanged,
        worker_init_fn=leave_signals_to_the_program,
    )
    with _bar("prepare images", "image", todo, progress) as bar:
        return _fill(caches.latents, calls, _key, map(partial(_encoded, encoder), images), bar)


def _groups(
    items: Sequence[T], key: Callable[[T], bytes], store: TensorStore, entry_bytes: int, work_share: WorkShare
) -> list[list[T]]:
    """Split items into groups of one shard each; return what is missing of each group of this process's share."""
    size = max(1, min(MAX_ENTRIES, SHARD_BYTES // entry_bytes))
    groups = [items[start : start + size] for start in range(0, len(items), size)]
    missing = [[item for item in group if key(item) not in store] for group in work_share.share(groups)]
    return [group for group in missing if group]


def _calls(group: list[T], num: int, kind: Callable[[T], Any] = lambda _: None) -> list[list[T]]:
    """Split the items of a shard into those that are encoded together: at most `num`, of one kind."""
    kinds: dict[Any, list[T]] = {}
    for item in group:
        kinds.setdefault(kind(item), []).append(item)
    return [items[start : start + num] for items in kinds.values() for start in range(0, len(items), num)]


def _encoded(encoder: Encoder, images: list[TrainingImage | UnusableImageError]) -> list[Entry | UnusableImageError]:
    """Encode the images of a call, and return errors in their places."""
    entries = iter(encoder.encode_images([one for one in images if isinstance(one, TrainingImage)]))
    return [next(entries) if isinstance(one, TrainingImage) else one for one in images]


def _fill(
    store: TensorStore,
    shards: list[list[list[T]]],
    key: Callable[[T], bytes],
    made: Iterator[Sequence[Entry | UnusableImageError]],
    bar: tqdm,
) -> list[UnusableImageError]:
    """Store what is made of the calls of each shard, and return the images that have no entry, each once."""
    unusable: dict[str, UnusableImageError] = {}
    for calls in shards:
        entries: dict[bytes, Entry] = {}
        for call in calls:
            for item, entry in zip(call, next(made), strict=True):
                if isinstance(entry, UnusableImageError):
                    unusable[entry.key] = entry
                else:
                    entries[key(item)] = entry
            bar.update(len(call))
        if entries:
            store.add(entries)
    return list(unusable.values())


def _bar(what: str, unit: str, todo: list[list], progress: bool) -> tqdm:
    total = sum(len(group) for group in todo)
    return tqdm(total=total, desc=what, unit=unit, disable=not (progress and total), dynamic_ncols=True)


class _Decoded(Dataset):
    """The images of calls of the encoder, decoded in the process that reads them."""

    def __init__(self, view: Sequence[PromptSample], calls: Sequence[Sequence[CropRef]]) -> None:
        self.view = view
        self.calls = calls

    def __len__(self) -> int:
        return len(self.calls)

    def __getitem__(self, index: int) -> list[TrainingImage | UnusableImageError]:
        return [self._image(ref) for ref in self.calls[index]]

    def _image(self, ref: CropRef) -> TrainingImage | UnusableImageError:
        image = images_of(self.view[ref.position])[ref.number].with_crop(ref.crop)
        try:
            _ = image.pixels
        except UnusableImageError as error:
            return error
        return image


def _key(crop: CropRef) -> bytes:
    return crop.key


def _size(crop: CropRef) -> Size:
    return crop.crop.size


def _unchanged(images: Any) -> Any:
    return images
