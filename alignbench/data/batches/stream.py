"""The batches that a method trains on, one after the other: samples, their order, crops and encoding put together."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch.utils.data import DataLoader

from alignbench.batch import PromptBatch
from alignbench.context import Context
from alignbench.crop import CropSpec
from alignbench.data.batches.aspect_buckets import BucketedOrder, Buckets
from alignbench.data.batches.collate import Indexed, Item, collate
from alignbench.data.batches.crops import CropPolicy
from alignbench.data.batches.encode import Encoder, NotStoredError
from alignbench.data.batches.feature_cache import Caches
from alignbench.data.batches.prefetch import Prefetch
from alignbench.data.batches.reference_values import FixedDraws, ReferenceValues
from alignbench.data.batches.sampler import Mix, MixedOrder, SampleRef, StepSampler
from alignbench.data.batches.scorer_scores import score_pairs
from alignbench.data.source import DataSource, LabelledView, PairSource, PromptSample, View, kind_of
from alignbench.data.sources.table_source import LabelColumns
from alignbench.data.storage.read_blocks import Blocks
from alignbench.errors import UserError
from alignbench.method import Method
from alignbench.models.adapter import ModelAdapter
from alignbench.terminal.signals import leave_signals_to_the_program
from alignbench.work_share import WorkShare


class Stream:
    """This process's share of each total batch of a run. Endless.

    A thread reads the next share while the last one is used. Only what no cache has is encoded where the share is asked
    for, because the text encoders and the VAE, and the memory that they need, are used by others as well. Draws are
    keyed by the sample, so a share is the same whenever it is read.

    If the method has a `scorer`, all training images are scored first, and the method is given the scores. If it has
    `num_draws`, its reference values are computed first, as far as they are not there.

    Args:
        cache: folder of encoded prompts, encoded images, scores and reference values, shared by all runs.
        start_step: number of the first batch; after an interruption, the step to resume from.
        num_workers: number of further processes that read data.
        crop_policy: how images are cropped; None for their centre squares.
        micro_batch_size: number of samples that have one size if the policy has aspect buckets.
        start: what `start_identity` returned for the model; needed by methods with `num_draws`.
        autocast: lets the network compute in the precision of training.

    Attributes:
        buckets: the size that each sample is cropped to; None if all have one size.

    Raises:
        UserError: the batch cannot be split evenly over the processes, or not into micro-batches of one size each.
    """

    def __init__(
        self,
        method: Method,
        data: DataSource,
        model: ModelAdapter,
        cache: Path,
        *,
        total_batch_size: int,
        seed: int | str,
        rank: int,
        num_processes: int,
        start_step: int,
        num_workers: int,
        crop_policy: CropPolicy | None = None,
        micro_batch_size: int = 1,
        start: Mapping[str, Any] | None = None,
        autocast: Callable[..., AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        view = data.view(kind_of(method.batch_type))
        mix = _mix(method, view)
        policy = crop_policy or CropPolicy.square(model.resolution)
        self.buckets, order = None, None
        if policy.has_buckets and kind_of(method.batch_type) != "prompts":
            if total_batch_size % (num_processes * micro_batch_size):
                raise UserError(
                    f"train.aspect_ratio_buckets needs whole micro-batches of one size; {num_processes} processes "
                    f"cannot split train.total_batch_size={total_batch_size} into micro-batches of "
                    f"{micro_batch_size}; choose a multiple of {num_processes * micro_batch_size}, or a smaller "
                    "train.micro_batch_size"
                )
            self.buckets = Buckets.of(data, view, policy.sizes, micro_batch_size)
            order = BucketedOrder(self.buckets, micro_batch_size, seed, mix)
        sampler = StepSampler(
            size=len(view),
            total_batch_size=total_batch_size,
            group_size=method.group_size,
            seed=seed,
            rank=rank,
            num_processes=num_processes,
            start_step=start_step,
            mix=mix,
            order=order,
            blocks=_blocks(view),
            num_draws=method.num_draws,
        )
        self.method = method
        self.draws = Context(0, seed, micro_batch_size, num_processes)
        self.device = model.device
        caches = Caches.open(cache, model, data.posterior, model.device) if Caches.exist(cache) else None
        self.encoder = Encoder(model, data.posterior, caches=caches, address=data.address, true_size=policy.true_size)
        if caches is not None:
            model.no_prompt = self.encoder.prompts([""])
        self.scores = None
        if method.scorer is not None:
            method.scorer.to(model.device)
            self.scores = score_pairs(cast(PairSource, data), method.scorer, cache / "scores", rank, num_processes)
            method.scorer.to("cpu")  # it is not needed any more
            method.fit(torch.tensor(list(self.scores.values())))
        self.reference_values = None
        if method.num_draws is not None:
            assert start is not None
            fixed_draws = FixedDraws(method, data, policy, self.encoder, self.draws, start, autocast)
            self.reference_values = ReferenceValues(cache / "reference", fixed_draws)
            self.reference_values.fill(WorkShare(rank, num_processes))
        decodes = self.encoder.cached_latents.is_missing if num_workers else self.encoder.must_decode
        dataset = Indexed(view, decodes, _CropOf(policy, self.buckets, seed))
        loader = DataLoader(
            dataset,
            batch_sampler=sampler,
            collate_fn=list,
            num_workers=num_workers,
            worker_init_fn=leave_signals_to_the_program,
        )
        self.samples = iter(loader)
        self.read_ahead = Prefetch[list[PromptBatch | list[Item]]]()

    def next(self) -> list[PromptBatch]:
        """Return the next share, in the method's `batch_type`, on the model's device.

        The share is one batch. With aspect buckets it is one batch for each micro-batch, because their images differ
        in size.
        """
        self.read_ahead.start(self._read)
        share = [found if isinstance(found, PromptBatch) else self._collate(found) for found in self.read_ahead.take()]
        self.read_ahead.start(self._read)
        return [batch.to(self.device) for batch in share]

    def close(self) -> None:
        """End the thread that reads."""
        self.read_ahead.close()

    def _read(self) -> list[PromptBatch | list[Item]]:
        """Return the batches of the next share; where a network must encode something, the samples of the batch."""
        items = next(self.samples)
        size = len(items) if self.buckets is None else self.draws.micro_batch_size
        return [self._stored(items[start : start + size]) for start in range(0, len(items), size)]

    def _stored(self, items: list[Item]) -> PromptBatch | list[Item]:
        try:
            batch = self._collate(items, encode=False)
        except NotStoredError:
            return items
        return batch.pinned() if self.device.type == "cuda" else batch

    def _collate(self, items: list[Item], encode: bool = True) -> PromptBatch:
        batch = collate(items, self.method, self.encoder, self.draws, self.scores, encode)
        return batch if self.reference_values is None else self.reference_values.with_known(batch)


def check_mix(method: Method, data: DataSource) -> None:
    """Refuse data that cannot be shown in the mix of labels that a method asks for. Needs no model.

    Raises:
        UserError: a label is missing, or memory holds the blocks of one label only.
    """
    view = data.view(kind_of(method.batch_type))
    mix = _mix(method, view)
    if mix is not None:
        MixedOrder(mix, _blocks(view), seed=0)


def _mix(method: Method, view: Sequence[PromptSample]) -> Mix | None:
    share = method.desirable_share
    return None if share is None else Mix(cast(LabelledView | LabelColumns, view).desirable, share)


def _blocks(view: Sequence[PromptSample]) -> Blocks | None:
    return view.blocks if isinstance(view, View | LabelColumns) else None


@dataclass(frozen=True)
class _CropOf:
    """Returns the crop of a sample's images. It is small, so that it can be sent to the processes that read data."""

    policy: CropPolicy
    buckets: Buckets | None
    seed: int | str

    def __call__(self, ref: SampleRef) -> CropSpec:
        index, position = ref
        size = self.policy.sizes[0] if self.buckets is None else self.buckets.size(position)
        return self.policy.draw(size, self.seed, index)
