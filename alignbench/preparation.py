"""The stage that encodes and scores training data beforehand, and which networks training can leave out after it."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import cast

import torch
from accelerate import PartialState
from hydra.utils import get_class
from omegaconf import DictConfig, open_dict
from rich.console import Console

from alignbench.config import build
from alignbench.data.caches import Caches
from alignbench.data.cuts import Cuts
from alignbench.data.loader import Encoder
from alignbench.data.prepare import Demand, latents_bytes, prepare, refuse_too_little_space
from alignbench.data.scores import add_scores
from alignbench.data.shards import num_bytes, writing
from alignbench.data.source import DataSource, PairSource
from alignbench.method import Method
from alignbench.models.adapter import ModelAdapter
from alignbench.models.loading import is_here
from alignbench.place import Place

Term = tuple[Method, DataSource]


def build_adapter(model: DictConfig, without: Sequence[str] = ()) -> ModelAdapter:
    """Build the adapter of a `model` node, some networks without their weights."""
    node = model.adapter
    if without:
        node = node.copy()
        with open_dict(node):
            node.pipeline.without = list(without)
        node._set_parent(model)  # its values refer to the rest
    return build(node)


class Preparation:
    """What the terms of one training read, and what of it is on the disk.

    Args:
        cfg: the whole configuration.
        terms: the method and the auxiliary terms, each with its data.
        cache: folder of what is kept of prompts, images and scores, shared by all runs.
        device: where training will be.
    """

    def __init__(self, cfg: DictConfig, terms: Sequence[Term], cache: Path, device: torch.device) -> None:
        self.cfg = cfg
        self.terms = terms
        self.cache = cache
        self.device = device
        adapter = get_class(cfg.model.adapter._target_)
        self.encoders = [name for name in adapter.frozen_parts if name != "vae"]
        self.denoiser = adapter.denoiser_name

    @cached_property
    def demands(self) -> list[Demand]:
        """What each term reads."""
        train = self.cfg.train
        cuts = Cuts.of(train, self.skeleton)
        return [Demand.of(method, data, cuts, train.micro_batch_size) for method, data in self.terms]

    @cached_property
    def skeleton(self) -> ModelAdapter:
        """The model without the weights of its networks."""
        return build_adapter(self.cfg.model, without=[*self.encoders, "vae", self.denoiser])

    def open(self) -> list[Caches]:
        """Return the caches of each term; the networks are told apart without loading them."""
        return [Caches.open(self.cache, self.skeleton, data.posterior, self.device) for _, data in self.terms]

    def left_out(self) -> list[str]:
        """Return the networks that training need not load, because all that they would compute is on the disk."""
        if not Caches.exist(self.cache) or not self._is_here():
            return []
        both = list(zip(self.demands, self.open(), strict=True))
        names = [] if any(demand.lacking_prompts(caches) for demand, caches in both) else list(self.encoders)
        if not any(method.reads_pixels for method, _ in self.terms) and not any(
            demand.cuts_anew or demand.lacking_pictures(caches) for demand, caches in both
        ):
            names.append("vae")
        return names

    def _is_here(self) -> bool:
        """Say whether the files are here that tell networks apart; others come when the model is loaded."""
        model = self.cfg.model
        return "pretrained_model_name_or_path" not in model or is_here(
            model.pretrained_model_name_or_path, model.revision
        )

    def run(self, place: Place, console: Console) -> None:
        """Make this process's share of what is missing, after a look at what is there."""
        caches = self.open()
        for one in caches:
            for shards in (one.prompts, one.latents):
                shards.discard_damaged(place.share(shards.files))
        self._meet(place, caches)
        lacking = self._lacking(caches)
        demands = zip(self.demands, caches, strict=True)
        for (method, data), (demand, kept) in zip(self.terms, demands, strict=True):
            prompts, pictures = len(demand.lacking_prompts(kept)), len(demand.lacking_pictures(kept))
            console.print(
                f"  prepare     {method.name}: {len(demand.prompts)} prompts ({len(demand.prompts) - prompts} there), "
                + (
                    f"images of data={data.name} are cut anew at each visit (train.crops_per_image=null) and not kept"
                    if demand.cuts_anew
                    else f"{len(demand.pictures)} images of data={data.name} ({len(demand.pictures) - pictures} there)"
                )
            )
        if lacking:
            self._encode(place, caches, console)
        for method, data in self.terms:
            if method.scorer is not None:
                method.scorer.to(self.device)
                add_scores(cast(PairSource, data), method.scorer, self.cache / "scores", place)
                method.scorer.to("cpu")
        self._meet(place, caches)
        if left := self._lacking(caches):
            console.print(f"prepare: {left} prompts and images are left for the other shards")
        else:
            folders = {shards.folder: shards.num_bytes for one in caches for shards in (one.prompts, one.latents)}
            console.print(f"prepare: all is there, {sum(folders.values()) / 2**20:,.1f} MiB in {self.cache}")

    def _encode(self, place: Place, caches: Sequence[Caches], console: Console) -> None:
        model = build_adapter(self.cfg.model, without=[self.denoiser])
        for helper in model.helpers:
            helper.to(self.device)
        encoders = [
            Encoder(model, data.posterior, caches=kept, address=data.address)
            for (_, data), kept in zip(self.terms, caches, strict=True)
        ]
        wanted = 0
        for demand, encoder, kept in zip(self.demands, encoders, caches, strict=True):
            wanted += len(demand.lacking_prompts(kept)) * num_bytes(encoder.encode_prompt(""))
            wanted += len(demand.lacking_pictures(kept)) * latents_bytes(model, encoder)
        console.print(f"  size        {wanted / 2**20:,.1f} MiB more in {self.cache}")
        refuse_too_little_space(self.cache, wanted)
        for demand, encoder, kept in zip(self.demands, encoders, caches, strict=True):
            with writing(kept.prompts.folder), writing(kept.latents.folder):
                if place.is_main:
                    kept.describe()
                prepare(demand, encoder, kept, place, self.cfg.train.dataloader_num_workers, place.is_main)
            kept.prompts.refresh()

    def _lacking(self, caches: Sequence[Caches]) -> int:
        return sum(
            len(demand.lacking_prompts(kept)) + len(demand.lacking_pictures(kept))
            for demand, kept in zip(self.demands, caches, strict=True)
        )

    def _meet(self, place: Place, caches: Sequence[Caches]) -> None:
        """Wait for the processes started with this one, and look at what they left."""
        if place.num_processes > 1:
            PartialState().wait_for_everyone()
        for one in caches:
            one.prompts.refresh()
            one.latents.refresh()
