"""What losses need of the frozen start at fixed draws: computed once, before training, and kept for later runs."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from tqdm.auto import tqdm

from alignbench.batch import PromptBatch
from alignbench.context import Context
from alignbench.crop import CropSpec
from alignbench.data.batches.collate import Indexed, collate
from alignbench.data.batches.crops import CropPolicy
from alignbench.data.batches.encode import Encoder
from alignbench.data.batches.feature_cache import image_identity, text_identity
from alignbench.data.batches.fill_cache import refuse_too_little_space
from alignbench.data.batches.sampler import SampleRef
from alignbench.data.source import DataSource, PromptSample, images_of, kind_of
from alignbench.data.storage.tensor_store import Entry, TensorStore, key_of, num_bytes
from alignbench.errors import UserError
from alignbench.files import write_json
from alignbench.method import Method
from alignbench.models.adapter import ModelAdapter
from alignbench.models.weights.without_weights import content_digest
from alignbench.work_share import WorkShare

FORMAT = 1  # to be raised when the program draws, encodes or computes in another way
PART_SIZE = 256  # draws in a shard: a killed process loses at most these
BATCH_SIZE = 8  # draws that are computed together; always the same ones, as the last bits depend on the others


def start_identity(model: ModelAdapter, train: DictConfig) -> dict[str, Any]:
    """Return all that decides what the frozen start of a training predicts, its inputs left out.

    Args:
        model: before `prepare_training`, which may convert or quantise its weights.
        train: the `train` node.
    """
    names = ("weights_dtype", "base_bits", "mixed_precision", "attention_backend")
    return {
        "class": type(model.denoiser).__name__,
        "weights": content_digest(model.denoiser),
        "guidance": model.train_guidance_scale,
        "scheduler": {name: str(value) for name, value in model.pipeline.scheduler.config.items()},
        **{name: train[name] for name in names},
    }


@dataclass(frozen=True)
class FixedDraws:
    """The fixed draws of all samples of a training, and the network whose values at them are kept.

    Attributes:
        method: has `num_draws`.
        data: where the samples come from.
        crops: how images are cropped.
        encoder: encodes prompts and images of the model.
        context: of the draws; its step is of no importance.
        start: what `start_identity` returned for the model.
        autocast: lets the network compute in the precision of training.

    Raises:
        UserError: the images have several sizes.
    """

    method: Method
    data: DataSource
    crops: CropPolicy
    encoder: Encoder
    context: Context
    start: Mapping[str, Any]
    autocast: Callable[..., AbstractContextManager[Any]]

    def __post_init__(self) -> None:
        if self.crops.has_buckets:
            raise UserError(
                f"method.num_draws={self.num_draws} needs images of one size; set train.aspect_ratio_buckets=null, or "
                "method.num_draws=null"
            )

    @property
    def num_draws(self) -> int:
        """Number of fixed draws of each sample."""
        assert self.method.num_draws is not None
        return self.method.num_draws

    @cached_property
    def samples(self) -> Indexed:
        """The samples, read by index of the draw and position."""
        return Indexed(self.data.view(kind_of(self.method.batch_type)), crop_of=self._crop)

    def _crop(self, ref: SampleRef) -> CropSpec:
        return self.crops.draw(self.crops.sizes[0], self.context.seed, ref[0])

    def __len__(self) -> int:
        return len(self.samples) * self.num_draws

    def identity(self) -> dict[str, Any]:
        """Return all that decides the values."""
        model = self.encoder.model
        return {
            "format": FORMAT,
            "batch": self.method.batch_type.__name__,
            "num_draws": self.num_draws,
            "prompt_dropout": self.method.prompt_dropout,
            "method": self.method.reference_settings,
            "seed": self.context.seed,
            "data": self.data.fingerprint,
            "samples": _digest(self.samples.view),
            "crops": asdict(self.crops),
            "start": dict(self.start),
            "text": text_identity(model, model.device),
            "images": image_identity(model, self.data.posterior, model.device),
        }

    def values(self, indices: Sequence[int]) -> list[Entry]:
        """Return what `Method.reference_values` does of some draws, for each draw, on the CPU, [1, ...] each."""
        items = [self.samples[index, index // self.num_draws] for index in indices]
        model = self.encoder.model
        batch = collate(items, self.method, self.encoder, self.context).to(model.device)
        with torch.no_grad(), self.autocast():
            values = self.method.reference_values(model, batch, self.context)
        return [{name: value[row : row + 1].cpu() for name, value in values.items()} for row in range(len(indices))]


class ReferenceValues:
    """The values of `Method.reference_values` at each fixed draw of each sample, on the disk.

    There is a folder for everything that changes a value, so runs that differ in nothing else share one, whatever
    their learning rate or beta. Values are computed in the same batches on any number of processes.

    Args:
        root: folder of all reference values.
        draws: whose values they are.
    """

    def __init__(self, root: Path, draws: FixedDraws) -> None:
        self.draws = draws
        self.identity = draws.identity()
        name = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:16]
        self.store = TensorStore(root / name)

    def missing(self, work_share: WorkShare) -> list[range]:
        """Return the parts of the draws that are not there as a whole, of a process and those started with it."""
        num = len(self.draws)
        parts = [range(start, min(start + PART_SIZE, num)) for start in range(0, num, PART_SIZE)]
        return [part for part in work_share.shard_of(parts) if any(_key(index) not in self.store for index in part)]

    def fill(self, work_share: WorkShare) -> int:
        """Compute what is missing of the share of this process and those started with it.

        All of these make equally many calls of the network, as sharded networks need.

        Returns:
            The number of draws that are left for other shards.

        Raises:
            UserError: the disk has too little space.
        """
        together = work_share.num_processes > 1
        self._meet(together)
        agreed = [self.missing(work_share)]
        if together:  # another command may fill the same folder meanwhile, and each process would see another state
            torch.distributed.broadcast_object_list(agreed)
        (parts,) = agreed
        if parts and work_share.is_main:
            write_json(self.store.folder / "made_by.json", self.identity)
        with tqdm(
            total=sum(map(len, parts)), desc="prepare reference values", unit="draw",
            disable=not parts or not work_share.is_main, dynamic_ncols=True,
        ) as bar:  # fmt: skip
            for first in range(0, len(parts), work_share.num_processes):
                # where the parts run out, the last one is computed by several processes, which write one file
                entries = self._computed(parts[min(first + work_share.rank, len(parts) - 1)])
                if first == 0:
                    wanted = num_bytes(next(iter(entries.values()))) * sum(map(len, parts))
                    refuse_too_little_space(self.store.folder, wanted, "lower method.num_draws")
                self.store.add(entries)
                bar.update(sum(map(len, parts[first : first + work_share.num_processes])))
        self._meet(together)
        return sum(map(len, self.missing(WorkShare())))

    def with_known(self, batch: PromptBatch) -> PromptBatch:
        """Return a batch with the values of its draws, on the CPU.

        Raises:
            UserError: a value was damaged or deleted since `fill`.
        """
        entries = [entry for entry in self.store.read(list(map(_key, batch.index.tolist()))) if entry is not None]
        if len(entries) < len(batch):
            raise UserError(
                f"reference values in {self.store.folder} are not there any more; start the same command again, which "
                "computes them anew"
            )
        return replace(batch, known={name: torch.cat([entry[name] for entry in entries]) for name in entries[0]})

    def _computed(self, part: range) -> dict[bytes, Entry]:
        batches = [part[start : start + BATCH_SIZE] for start in range(0, len(part), BATCH_SIZE)]
        entries: dict[bytes, Entry] = {}
        for number in range(self.draws.context.maximum(len(batches), self.draws.encoder.model.device)):
            batch = batches[min(number, len(batches) - 1)]
            entries |= zip(map(_key, batch), self.draws.values(batch), strict=True)
        return entries

    def _meet(self, together: bool) -> None:
        if together:
            torch.distributed.barrier()
        self.store.refresh()


def _key(index: int) -> bytes:
    return key_of(str(index))


def _digest(samples: Iterable[PromptSample]) -> str:
    """Return what tells a list of samples from others of the same data."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update("\0".join((sample.prompt, *(image.key for image in images_of(sample)), "\n")).encode())
    return digest.hexdigest()
