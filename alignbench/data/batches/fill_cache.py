"""Encode what training will read before it starts: prompts and images, in parts that a killed pass goes on with."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from alignbench.crop import CropSpec
from alignbench.data.batches.aspect_buckets import Buckets
from alignbench.data.batches.crops import CropPolicy
from alignbench.data.batches.encode import Encoder
from alignbench.data.batches.feature_cache import Caches, picture_key, prompt_key
from alignbench.data.source import DataSource, Picture, PromptSample, kind_of, pictures_of
from alignbench.data.storage.tensor_store import Entry, TensorStore, num_bytes
from alignbench.errors import UserError
from alignbench.method import Method
from alignbench.models.adapter import ModelAdapter
from alignbench.work_share import WorkShare

SHARD_BYTES = 64 * 2**20
MOST_ENTRIES = 1024  # of a shard: a killed pass loses no more, a process

T = TypeVar("T")


class Spot(NamedTuple):
    """What is cut out of a picture of a view.

    Attributes:
        key: of its latents.
        position, number: of the sample in the view, and of the picture in the sample.
        cut: how it is cut.
    """

    key: bytes
    position: int
    number: int
    cut: CropSpec


@dataclass(frozen=True)
class Demand:
    """What a method reads of its data.

    Attributes:
        prompts: the empty one, which dropout and guidance ask for, and all of the data.
        view: the samples.
        pictures: what is cut out of their distinct pictures, in order of appearance.
        cuts_anew: whether pictures are cut in another work_share at each visit, so that none can be encoded beforehand.
    """

    prompts: Sequence[str]
    view: Sequence[PromptSample]
    pictures: Sequence[Spot]
    cuts_anew: bool = False

    @classmethod
    def of(cls, method: Method, data: DataSource, cuts: CropPolicy, micro_batch_size: int = 1) -> "Demand":
        """Return what a method reads of its data, cut in one way or another; no image is decoded for it.

        Args:
            micro_batch_size: samples that share a size where `cuts` has several.
        """
        kind = kind_of(method.batch_type)
        view, prompts = data.view(kind), list(dict.fromkeys(["", *data.prompts]))
        if kind == "prompts" or cuts.are_endless:
            return cls(prompts, view, [], cuts_anew=kind != "prompts")
        buckets = Buckets.of(data, view, cuts.sizes, micro_batch_size) if cuts.has_buckets else None
        spots: dict[bytes, Spot] = {}
        for position in range(len(view)):
            size = cuts.sizes[0] if buckets is None else buckets.size(position)
            for number, picture in enumerate(pictures_of(view[position])):
                for cut in cuts.all(size):
                    key = picture_key(data.address(picture.key), cut)
                    spots.setdefault(key, Spot(key, position, number, cut))
        return cls(prompts, view, list(spots.values()))

    def lacking_prompts(self, caches: Caches) -> list[str]:
        """Return the prompts that are not encoded yet."""
        return [text for text in self.prompts if prompt_key(text) not in caches.prompts]

    def lacking_pictures(self, caches: Caches) -> list[Spot]:
        """Return the pictures that are not encoded yet."""
        return [spot for spot in self.pictures if spot.key not in caches.latents]


def latents_bytes(model: ModelAdapter, encoder: Encoder) -> int:
    """Return the size of what is kept of one image, or the most where aspect buckets have several sizes."""
    return prod(model.latent_shape) * model.pipeline.vae.dtype.itemsize * (2 if encoder.posterior == "sample" else 1)


def refuse_too_little_space(folder: Path, wanted: float) -> None:
    """Refuse to write more than the disk can take.

    Raises:
        UserError: if `wanted` bytes are not free where `folder` is or will be.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if wanted > free:
        raise UserError(
            f"prepare would write {wanted / 2**30:.1f} GiB to {folder}, and {free / 2**30:.1f} GiB are free; make "
            "room, choose another disk with results=DIR, or train without prepare"
        )


def prepare(
    demand: Demand, encoder: Encoder, caches: Caches, work_share: WorkShare, num_workers: int = 0, progress: bool = True
) -> None:
    """Encode this process's share of what is missing.

    Parts follow from the demand alone, and every part that is missing becomes one shard. So the folder that a killed
    pass and its repetition leave equals that of a pass that was left alone, and so do those of two passes at once.

    Args:
        num_workers: processes that decode images beside this one.
    """
    size = num_bytes(encoder.encode_prompt(""))
    todo = _parts(demand.prompts, prompt_key, caches.prompts, size, work_share)
    with _bar("prepare prompts", "prompt", todo, progress) as bar:
        _fill(caches.prompts, todo, prompt_key, (encoder.encode_prompt(text) for part in todo for text in part), bar)

    size = latents_bytes(encoder.model, encoder)
    todo = _parts(demand.pictures, _key, caches.latents, size, work_share)
    pictures = DataLoader(
        _Decoded(demand.view, [spot for part in todo for spot in part]),
        batch_size=None,
        num_workers=num_workers,
        collate_fn=_unchanged,
    )
    with _bar("prepare images", "image", todo, progress) as bar:
        _fill(caches.latents, todo, _key, map(encoder.encode_picture, pictures), bar)


def _parts(
    items: Sequence[T], key: Callable[[T], bytes], store: TensorStore, entry_bytes: int, work_share: WorkShare
) -> list[list[T]]:
    """Return what is missing of this process's parts, but for those that lack nothing."""
    size = max(1, min(MOST_ENTRIES, SHARD_BYTES // entry_bytes))
    parts = [items[start : start + size] for start in range(0, len(items), size)]
    missing = [[item for item in part if key(item) not in store] for part in work_share.share(parts)]
    return [part for part in missing if part]


def _fill(
    store: TensorStore, todo: list[list[T]], key: Callable[[T], bytes], entries: Iterator[Entry], bar: tqdm
) -> None:
    for part in todo:
        made: dict[bytes, Entry] = {}
        for item in part:
            made[key(item)] = next(entries)
            bar.update()
        store.add(made)


def _bar(what: str, unit: str, todo: list[list], progress: bool) -> tqdm:
    total = sum(len(part) for part in todo)
    return tqdm(total=total, desc=what, unit=unit, disable=not (progress and total), dynamic_ncols=True)


class _Decoded(Dataset):
    """Pictures by their number in a list of spots, decoded where they are asked for."""

    def __init__(self, view: Sequence[PromptSample], spots: Sequence[Spot]) -> None:
        self.view = view
        self.spots = spots

    def __len__(self) -> int:
        return len(self.spots)

    def __getitem__(self, place: int) -> Picture:
        _, position, number, cut = self.spots[place]
        picture = pictures_of(self.view[position])[number].with_cut(cut)
        _ = picture.pixels
        return picture


def _key(spot: Spot) -> bytes:
    return spot.key


def _unchanged(picture: Any) -> Any:
    return picture
