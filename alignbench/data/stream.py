"""The batches that a method trains on, one after the other: view, order, decoding and encoding in one place."""

from pathlib import Path
from typing import cast

import torch
from torch.utils.data import DataLoader

from alignbench.batch import PromptBatch
from alignbench.context import Context
from alignbench.data.caches import Caches
from alignbench.data.corpus import LabelColumns
from alignbench.data.loader import Encoder, Indexed, Mix, StepSampler, collate
from alignbench.data.scores import score_pairs
from alignbench.data.source import DataSource, LabelledView, PairSource, View, kind_of
from alignbench.method import Method
from alignbench.models.adapter import ModelAdapter


class Stream:
    """This process's share of one total batch after the other. Endless.

    Where the method has a `scorer`, all training images are scored first, and the method takes the scores in.

    Args:
        cache: folder of what is kept of prompts, images and scores, shared by all runs.
        start_step: number of the first batch, to go on after an interruption.
        num_workers: processes that read data beside this one.
        true_size: whether conditioning tells the size that images came in.
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
        true_size: bool = False,
    ) -> None:
        view = data.view(kind_of(method.batch_type))
        share = method.desirable_share
        sampler = StepSampler(
            size=len(view),
            total_batch_size=total_batch_size,
            group_size=method.group_size,
            seed=seed,
            rank=rank,
            num_processes=num_processes,
            start_step=start_step,
            mix=None if share is None else Mix(cast(LabelledView, view).desirable, share),
            blocks=view.blocks if isinstance(view, View | LabelColumns) else None,
        )
        self.method = method
        self.device = model.device
        caches = Caches.open(cache, model, data.posterior, model.device) if Caches.exist(cache) else None
        self.encoder = Encoder(model, data.posterior, caches=caches, address=data.address, true_size=true_size)
        if caches is not None:
            model.empty_prompt = self.encoder.prompts([""])
        self.scores = None
        if method.scorer is not None:
            method.scorer.to(model.device)
            self.scores = score_pairs(cast(PairSource, data), method.scorer, cache / "scores", rank, num_processes)
            method.scorer.to("cpu")  # its work is done
            method.fit(torch.tensor(list(self.scores.values())))
        dataset = Indexed(view, self.encoder.known.lacks if num_workers else None)
        self.samples = iter(DataLoader(dataset, batch_sampler=sampler, collate_fn=list, num_workers=num_workers))

    def next(self, context: Context) -> PromptBatch:
        """Return the next batch, of the type that the method asks for, on the model's device."""
        return collate(next(self.samples), self.method, self.encoder, context, self.scores).to(self.device)
