"""The stage that encodes and scores training data beforehand, and which networks training can leave out after it."""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import gather_object
from hydra.utils import get_class
from omegaconf import DictConfig, open_dict
from rich.console import Console

from alignbench.configuration.build import build
from alignbench.context import Context
from alignbench.data.batches.crops import CropPolicy
from alignbench.data.batches.encode import Encoder
from alignbench.data.batches.feature_cache import Caches
from alignbench.data.batches.fill_cache import (
    RequiredFeatures,
    latents_bytes,
    prepare,
    prompt_bytes,
    refuse_too_little_space,
)
from alignbench.data.batches.reference_values import FixedDraws, ReferenceValues, start_identity
from alignbench.data.batches.scorer_scores import add_scores
from alignbench.data.source import DataSource, PairSource
from alignbench.data.storage.image_store import UnusableImageError
from alignbench.files import write_text
from alignbench.models.adapter import ModelAdapter
from alignbench.models.weights.loading import is_here
from alignbench.stages.training_terms import Term, build_terms
from alignbench.terminal.waiting import waiting
from alignbench.training.compile_and_attention import set_attention_backend
from alignbench.work_share import WorkShare


def prepare_data(
    cfg: DictConfig,
    cache: Path,
    work_share: WorkShare,
    accelerator: Accelerator,
    console: Console,
    load_model: Callable[[Sequence[str]], ModelAdapter],
) -> None:
    """Encode and score the data of a training, and compute its reference values.

    Args:
        cache: see `Preparation`.
        load_model: returns the model with its start weights, but for the networks that are named.
    """
    preparation = Preparation(cfg, build_terms(cfg), cache, accelerator.device)
    while not preparation.run(work_share, console):
        accelerator.wait_for_everyone()  # then once more without the images that cannot be decoded
        preparation = Preparation(cfg, build_terms(cfg), cache, accelerator.device)
    method, data = preparation.terms[0]
    if method.num_draws is not None:
        model = load_model(preparation.left_out())
        start = _prepare_start(model, cfg, accelerator.device)
        policy = CropPolicy.of(cfg.train, model)
        caches = Caches.open(cache, model, data.posterior, accelerator.device)
        encoder = Encoder(model, data.posterior, caches=caches, address=data.address, true_size=policy.true_size)
        context = Context(0, cfg.seed, cfg.train.micro_batch_size, accelerator.num_processes)
        draws = FixedDraws(method, data, policy, encoder, context, start, accelerator.autocast)
        values = ReferenceValues(cache / "reference", draws)
        values.store.discard_damaged(work_share.share(values.store.files))
        left = values.fill(work_share)
        console.print(
            f"  prepare     {method.name}: {method.num_draws} fixed draws of {len(draws.samples)} samples; "
            f"{model.network_passes} network passes, {values.store.num_bytes / 2**20:,.1f} MiB"
            + (f"; {left} draws are left for the other shards" if left else "")
        )


def _prepare_start(model: ModelAdapter, cfg: DictConfig, device: torch.device) -> dict[str, Any]:
    """Bring the start into the form that it has in training, and return what decides its predictions."""
    settings = cfg.train
    model.fold_adapters()
    start = start_identity(model, settings)
    dtypes = (settings.weights_dtype, settings.base_bits, device)
    model.prepare_training(settings.tuning, settings.lora_rank, settings.lora_alpha, *dtypes)
    if settings.attention_backend is not None:
        set_attention_backend(model.denoiser, settings.attention_backend)
    model.reference_network = model.denoiser  # no copy, as nothing is trained here
    for network in (model.denoiser, *model.frozen_networks):
        network.to(device)
    return start


def build_adapter(model: DictConfig, without: Sequence[str] = ()) -> ModelAdapter:
    """Build the adapter of a `model` node, some networks without their weights."""
    node = model.adapter
    if without:
        node = node.copy()
        with open_dict(node):
            node.pipeline.without = list(without)
        node._set_parent(model)  # its values refer to the rest
    with waiting(f"loading {model.name}"):
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
    def required(self) -> list[RequiredFeatures]:
        """The prompts and images that each term needs encoded."""
        train = self.cfg.train
        policy = CropPolicy.of(train, self.skeleton)
        return [RequiredFeatures.of(method, data, policy, train.micro_batch_size) for method, data in self.terms]

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
        both = list(zip(self.required, self.open(), strict=True))
        names = [] if any(required.missing_prompts(caches) for required, caches in both) else list(self.encoders)
        if not any(method.reads_pixels for method, _ in self.terms) and not any(
            required.has_unlimited_crops or required.missing_crops(caches) for required, caches in both
        ):
            names.append("vae")
        return names

    def _is_here(self) -> bool:
        """Say whether the files are here that tell networks apart; others come when the model is loaded."""
        model = self.cfg.model
        return "pretrained_model_name_or_path" not in model or is_here(
            model.pretrained_model_name_or_path, model.revision
        )

    def run(self, work_share: WorkShare, console: Console) -> bool:
        """Make this process's share of what is missing, after a look at what is there.

        Returns:
            Whether all is done. Otherwise some images could not be decoded: their sources, built anew, leave them out.

        Raises:
            UnusableImageError: a source without a place to note such images has one.
        """
        caches = self.open()
        for one in caches:
            for store in (one.prompts, one.latents):
                store.discard_damaged(work_share.share(store.files))
        self._meet(work_share, caches)
        lacking = self._lacking(caches)
        all_required = zip(self.required, caches, strict=True)
        for (method, data), (required, kept) in zip(self.terms, all_required, strict=True):
            prompts, pictures = len(required.missing_prompts(kept)), len(required.missing_crops(kept))
            console.print(
                f"  prepare     {method.name}: {len(required.prompts)} prompts "
                f"({len(required.prompts) - prompts} there), "
                + (
                    f"images of data={data.name} get new crops each time (train.crops_per_image=null) and are not kept"
                    if required.has_unlimited_crops
                    else f"{len(required.crops)} images of data={data.name} ({len(required.crops) - pictures} there)"
                )
            )
        if lacking and self._encode(work_share, caches, console):
            return False
        for method, data in self.terms:
            if method.scorer is not None:
                method.scorer.to(self.device)
                add_scores(cast(PairSource, data), method.scorer, self.cache / "scores", work_share)
                method.scorer.to("cpu")
        self._meet(work_share, caches)
        if left := self._lacking(caches):
            console.print(f"prepare: {left} prompts and images are left for the other shards")
        else:
            folders = {store.folder: store.num_bytes for one in caches for store in (one.prompts, one.latents)}
            console.print(f"prepare: all is there, {sum(folders.values()) / 2**20:,.1f} MiB in {self.cache}")
        return True

    def _encode(self, work_share: WorkShare, caches: Sequence[Caches], console: Console) -> bool:
        """Encode what is missing; return whether any process came upon images that cannot be decoded."""
        model = build_adapter(self.cfg.model, without=[self.denoiser])
        for helper in model.frozen_networks:
            helper.to(self.device)
        encoders = [
            Encoder(model, data.posterior, caches=kept, address=data.address)
            for (_, data), kept in zip(self.terms, caches, strict=True)
        ]
        wanted = 0
        for required, encoder, kept in zip(self.required, encoders, caches, strict=True):
            wanted += len(required.missing_prompts(kept)) * prompt_bytes(required.prompts, encoder)
            wanted += len(required.missing_crops(kept)) * latents_bytes(model, encoder)
        console.print(f"  size        {wanted / 2**20:,.1f} MiB more in {self.cache}")
        refuse_too_little_space(self.cache, wanted)
        num_unusable = 0
        for (_, data), required, encoder, kept in zip(self.terms, self.required, encoders, caches, strict=True):
            if work_share.is_main:
                kept.describe()
            workers = self.cfg.train.dataloader_num_workers
            unusable = prepare(required, encoder, kept, work_share, workers, work_share.is_main)
            kept.prompts.refresh()
            if work_share.num_processes > 1:
                unusable = [one for of_process in gather_object([unusable]) for one in of_process]
            if unusable and work_share.is_main:
                self._leave_out(data, unusable, console)
            num_unusable += len(unusable)
        return num_unusable > 0

    def _leave_out(self, data: DataSource, unusable: Sequence[UnusableImageError], console: Console) -> None:
        """Note images that cannot be decoded, name them, and write the file that leaves them out elsewhere."""
        if not data.note_damaged([one.key for one in unusable]):
            raise unusable[0]
        rules = getattr(data, "rules", None)
        lines = dict.fromkeys([*(rules.excluded if rules else ()), *(one.key for one in unusable)])
        file = self.cache / f"exclude-{data.name}.txt"
        write_text(file, "".join(f"{line}\n" for line in lines))
        console.print(f"prepare: {len(unusable)} images of data={data.name} cannot be used, and are left out:")
        for one in unusable:
            console.print(f"  {one.key} {one.fault}")
        console.print(f"  listed in {file}; data.exclude={file} leaves them out on other machines, too")

    def _lacking(self, caches: Sequence[Caches]) -> int:
        return sum(
            len(required.missing_prompts(kept)) + len(required.missing_crops(kept))
            for required, kept in zip(self.required, caches, strict=True)
        )

    def _meet(self, work_share: WorkShare, caches: Sequence[Caches]) -> None:
        """Wait for the processes started with this one, and look at what they left."""
        if work_share.num_processes > 1:
            PartialState().wait_for_everyone()
        for one in caches:
            one.prompts.refresh()
            one.latents.refresh()
