"""Evaluation images or videos: each prompt starts from the same noise, for any batch size and number of processes.

Images that are made together are the same after a kill as without one, so the files are the same, too. Another batch
size or number of processes can change the rounding, and so some values of pixels by one.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from tqdm.auto import tqdm

from alignbench.context import all_reduce_max
from alignbench.data.prompt_looks import in_random_order
from alignbench.data.prompts import Prompt, PromptSet
from alignbench.diffusion.initial_noise import initial_noise
from alignbench.errors import UserError
from alignbench.generation.control.control import Control
from alignbench.generation.image_writer import ImageWriter
from alignbench.generation.pipeline_sampler import Sampler
from alignbench.models.adapter import ModelAdapter
from alignbench.settings.sampling import Looks, NoiseMode, StopRule, StrengthKind
from alignbench.store.image_records import (
    ImageSet,
    PromptRecord,
    SamplingRecord,
    image_name,
    read_prompts,
    store_records,
)
from alignbench.store.run_folder import RunFolder
from alignbench.videos import FrameSpec
from alignbench.work_share import WorkShare

Batch = list[tuple[Prompt, int]]  # prompts, and the numbers of their images


@dataclass(frozen=True)
class Sampling:
    """How evaluation images are made.

    Attributes:
        num_inference_steps: denoising steps.
        guidance_scale: guidance weight as the pipeline of the family defines it.
        num_images_per_prompt: images of each prompt, numbered from 0.
        noise: `per_prompt`; or `constant`: every prompt starts from the same noise, as in the papers.
        seed: seed of the noise; not the training seed.
        batch_size: number of images made at once; it changes images by no more than rounding.
        base_bits: bits of the denoiser's linear layers, 8 or 4; None keeps the dtype that they were loaded in.
        scheduler: name of a scheduler of diffusers, as in `alignbench.models.schedulers`; None for the model's own.
        negative_prompt: prompt that guidance moves away from; None for the empty prompt.
        true_cfg_scale: weight of classifier-free guidance, for networks whose own guidance is distilled.
        resolution: side of the images in pixels; None for the model's own.
        control: a ControlNet and the maps that the images follow; None for neither.
        strength: how far the policy goes from its start: 0 is the start, 1 the policy.
        strength_kind: what that scales: the difference of their predictions, which the sampler does, or of their
            weights, which `ModelAdapter.scale_policy` does before.
        frames: of each video that the model makes; None for a model of images.
        stop, looks, stop_on: when images are enough; see `alignbench.settings.sampling`. They change no image.
    """

    num_inference_steps: int
    guidance_scale: float
    num_images_per_prompt: int = 1
    noise: NoiseMode = "per_prompt"
    seed: int = 0
    batch_size: int = 16
    base_bits: int | None = None
    scheduler: str | None = None
    negative_prompt: str | None = None
    true_cfg_scale: float | None = None
    resolution: int | None = None
    control: Control | None = None
    strength: float = 1.0
    strength_kind: StrengthKind = "prediction"
    frames: FrameSpec | None = None
    stop: StopRule = "none"
    looks: Looks = 5
    stop_on: str | None = None

    @property
    def hash(self) -> str:
        """Hash of all settings that change an image. The number of prompts or images does not change it."""
        values = {
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": float(self.guidance_scale),
            "noise": self.noise,
            "seed": self.seed,
            **self.overrides,
        }
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:10]

    @property
    def overrides(self) -> dict[str, Any]:
        """Settings that replace the model's defaults. They enter the hash only if they are set."""
        others = {
            "base_bits": self.base_bits,
            "control": None if self.control is None else self.control.identity,
        }
        set_ones = {name: value for name, value in others.items() if value is not None}
        return self._call | set_ones | self._strength | ({} if self.frames is None else vars(self.frames))

    @property
    def at_full_strength(self) -> "Sampling":
        """The same sampling of the policy as it was trained; base, which has no policy, is always sampled so."""
        return replace(self, strength=1.0)

    @property
    def _strength(self) -> dict[str, Any]:
        return {} if self.strength == 1 else {"strength": float(self.strength), "strength_kind": self.strength_kind}

    @property
    def _call(self) -> dict[str, Any]:
        values = {
            "scheduler": self.scheduler,
            "negative_prompt": self.negative_prompt,
            "true_cfg_scale": None if self.true_cfg_scale is None else float(self.true_cfg_scale),
            "resolution": self.resolution,
        }
        return {name: value for name, value in values.items() if value is not None}

    def file_name(self, prompt_id: str, number: int) -> str:
        """Return the name of the file of one image or video."""
        return image_name(prompt_id, number, is_video=self.frames is not None)

    def sampler(self, model: ModelAdapter, cache: Path) -> Sampler:
        """Return the sampler that makes images from noise.

        Args:
            cache: folder for the maps that a ControlNet is given.
        """
        call = {"num_inference_steps": self.num_inference_steps, "guidance_scale": self.guidance_scale, **self._call}
        if self.strength_kind == "prediction":
            call["strength"] = self.strength
        return Sampler(model, **call) if self.control is None else self.control.sampler(model, cache, **call)

    def __str__(self) -> str:
        """Describe the sampling in one line."""
        settings = [f"{self.num_inference_steps} steps", f"guidance {self.guidance_scale:g}"]
        settings += [f"{name} {value}" for name, value in self._call.items()]
        if self.strength != 1:
            settings.append(f"strength {self.strength:g} of the {self.strength_kind}")
        if self.control is not None:
            settings.append(f"maps of {self.control.path} by {self.control.controlnet}")
        if self.frames is not None:
            settings.append(str(self.frames))
        return ", ".join(settings)


def image_set(prompt_set: PromptSet, sampling: Sampling, resolution: int) -> ImageSet:
    """Return the list of the images that `generate` makes; `resolution` is the model's own."""
    side = resolution if sampling.resolution is None else sampling.resolution
    names = range(sampling.num_images_per_prompt)
    records = [
        PromptRecord(p.prompt_id, p.prompt, p.groups, tuple(sampling.file_name(p.prompt_id, k) for k in names))
        for p in prompt_set
    ]
    return ImageSet(prompt_set.name, sampling.hash, records, (side, side), generated=True, frames=sampling.frames)


def generated(
    folder: RunFolder, prompt_set: PromptSet, sampling: Sampling, work_share: WorkShare | None = None
) -> bool:
    """Say whether all images of this shard exist and are complete.

    Raises:
        UserError: the run came from a capsule, and had no such images where it was made.
    """
    images = folder.images(prompt_set.name, sampling.hash)
    if folder.is_from_capsule:
        return _was_generated(folder, prompt_set, sampling)
    if not (images / "sampling.json").exists() or read_prompts(images) != _records(images, prompt_set, sampling):
        return False
    work_share = work_share or WorkShare()
    batches = _batches(prompt_set, sampling, work_share)

    def complete(batches: list[Batch]) -> bool:
        return all(_is_whole(images / sampling.file_name(p.prompt_id, k)) for batch in batches for p, k in batch)

    # the shard that makes the last image records that in the manifest
    noted = folder.completed("generate", f"{prompt_set.name}/{sampling.hash}")
    return complete(work_share.shard_of(batches)) and (noted or not complete(batches))


def _was_generated(folder: RunFolder, prompt_set: PromptSet, sampling: Sampling) -> bool:
    """Say that a run from a capsule had these images, which it has no more.

    Raises:
        UserError: it did not.
    """
    images, key = folder.images(prompt_set.name, sampling.hash), f"{prompt_set.name}/{sampling.hash}"
    if not folder.completed("generate", key) or read_prompts(images) != _records(images, prompt_set, sampling):
        raise UserError(
            f"{folder.path} came from a capsule and has no images of prompts={prompt_set.name} with this sampling; "
            "choose another results folder to make the run and its images there"
        )
    return True


def generate(
    model: ModelAdapter,
    prompt_set: PromptSet,
    sampling: Sampling,
    folder: RunFolder,
    work_share: WorkShare | None = None,
    progress: bool = True,
    in_step: bool = False,
    refuse_black: bool = True,
) -> int:
    """Make the missing images of a prompt set; return the number of images that are left for other shards.

    The main process first records the prompts of the folder, so that no image can be used for another prompt. When all
    images exist, it records that the folder is complete.

    Args:
        work_share: this process's share of the images.
        in_step: whether all processes call the network equally often; needed if its weights are sharded over them.
        refuse_black: whether an entirely black image raises an error; values that are not finite give black images.

    Raises:
        UserError: the folder has images of other prompts with these ids, or an image is black.
    """
    work_share = work_share or WorkShare()
    images = folder.images(prompt_set.name, sampling.hash)
    records = _records(images, prompt_set, sampling)
    if work_share.is_main:
        store_records(folder, images, records, _sampling_record(prompt_set, sampling, records))
    sampler = sampling.sampler(model, folder.path.parent / "cache")
    batches = _batches(prompt_set, sampling, work_share)
    share = work_share.share(batches)

    def lacks(item: tuple[Prompt, int]) -> bool:
        return not _is_whole(images / sampling.file_name(item[0].prompt_id, item[1]))

    missing = {item for batch in share for item in batch if lacks(item)}
    todo = [batch for batch in share if missing.intersection(batch)]
    if model.samples_alone:
        todo = [[item] for batch in todo for item in batch if item in missing]

    with ImageWriter(sampling.frames) as writer, tqdm(
        total=sum(map(len, share)), initial=sum(map(len, share)) - len(missing),
        desc=f"generate {folder.short_name}", unit="image",
        disable=not (progress and work_share.is_main and todo), dynamic_ncols=True, leave=None,
    ) as bar:  # fmt: skip
        num_batches, seconds, num_made = len(todo), 0.0, 0
        if in_step:
            num_batches = all_reduce_max(num_batches, model.device, work_share.num_processes)
        for number in range(num_batches):
            is_filler = number >= len(todo)  # others need this one's shards of the weights; its image is not kept
            batch = batches[0][:1] if is_filler else todo[number]
            keys = [(p.prompt_id, k) for p, k in batch]
            noise = [initial_noise(*key, sampling.seed, sampler.latent_shape, sampling.noise) for key in keys]
            before = time.perf_counter()
            pictures = sampler(keys, [p.prompt for p, _ in batch], torch.stack(noise))
            seconds += time.perf_counter() - before
            if is_filler:
                continue
            num_made += len(batch)
            for (p, _), picture in zip(batch, pictures, strict=True):
                if refuse_black:
                    _refuse_black(picture, p)
            # before the images, which a kill may leave without
            if work_share.is_main and number in (0, len(todo) - 1):
                cost = {"network_passes": sampler.passes_per_image, "seconds": seconds / num_made}
                folder.update(image_costs={f"{prompt_set.name}/{sampling.hash}": cost})
            made = [(item, picture) for item, picture in zip(batch, pictures, strict=True) if item in missing]
            for (p, k), picture in made:
                writer.write(images / sampling.file_name(p.prompt_id, k), picture)
            bar.update(len(made))
    if work_share.num_processes > 1:
        PartialState().wait_for_everyone()
    left = sum(lacks(item) for batch in batches for item in batch)
    if work_share.is_main and not left:
        folder.complete("generate", f"{prompt_set.name}/{sampling.hash}")
    return left


def _batches(prompt_set: PromptSet, sampling: Sampling, work_share: WorkShare) -> list[Batch]:
    """Return what is made together.

    The first prompts of a set that is measured look by look are made in batches of the sizes that the whole set is made
    in, or rounding would differ. So the last batch of a look may already hold some images of the next one.
    """
    batches = work_share.batches(_items(prompt_set.whole or prompt_set, sampling), sampling.batch_size)
    if prompt_set.whole is None:
        return batches
    last = batches.pop() if len(batches[-1]) < len(batches[0]) else []
    in_order = [prompt for same_text in in_random_order(prompt_set.whole, sampling.seed) for prompt in same_text]
    rest = [item for item in _items(in_order, sampling) if item not in last]
    size = len(batches[0]) if batches else 1
    batches = [rest[start : start + size] for start in range(0, len(rest), size)] + [last]
    wanted = set(_items(prompt_set, sampling))
    return [batch for batch in batches if wanted.intersection(batch)]


def _items(prompts: Iterable[Prompt], sampling: Sampling) -> Batch:
    return [(prompt, number) for prompt in prompts for number in range(sampling.num_images_per_prompt)]


def _records(images: Path, prompt_set: PromptSet, sampling: Sampling) -> list[PromptRecord]:
    """Return the records of an image folder after this request; those of earlier, larger requests are kept."""
    old = {record.prompt_id: record for record in read_prompts(images)} if (images / "prompts.jsonl").exists() else {}
    new = {}
    for prompt in prompt_set:
        before = old.get(prompt.prompt_id)
        if before is not None and before.prompt != prompt.prompt:
            raise UserError(
                f"{images} holds the image of {before.prompt!r} as {prompt.prompt_id}, but the prompt is now "
                f"{prompt.prompt!r}; delete that folder, or give the changed prompts ids of their own"
            )
        num_images = max(sampling.num_images_per_prompt, len(before.images) if before else 0)
        names = tuple(sampling.file_name(prompt.prompt_id, number) for number in range(num_images))
        new[prompt.prompt_id] = PromptRecord(prompt.prompt_id, prompt.prompt, tuple(prompt.groups), names)
    # in the order of the set, as the larger request has it
    return list((new if old.keys() <= new.keys() else {**old, **new}).values())


def _sampling_record(prompt_set: PromptSet, sampling: Sampling, records: list[PromptRecord]) -> SamplingRecord:
    return SamplingRecord(
        prompt_set=prompt_set.name,
        num_inference_steps=sampling.num_inference_steps,
        guidance_scale=sampling.guidance_scale,
        noise=sampling.noise,
        seed=sampling.seed,
        num_images_per_prompt=max(len(record.images) for record in records),
        full_size=prompt_set.full_size,
        subset=len(records) < prompt_set.full_size,
        base_sampling=None if sampling.strength == 1 else sampling.at_full_strength.hash,
        **sampling.overrides,
    )


def _is_whole(path: Path) -> bool:
    """Say whether a file begins and ends as a PNG, or is a WebP as long as its beginning says.

    Files are written atomically; this finds files damaged later.
    """
    try:
        with path.open("rb") as file:
            head = file.read(12)
            if head.startswith(b"RIFF"):
                num_bytes = file.seek(0, os.SEEK_END)
                return head.endswith(b"WEBP") and num_bytes == 8 + int.from_bytes(head[4:8], "little")
            file.seek(-12, os.SEEK_END)
            return head.startswith(b"\x89PNG\r\n\x1a\n") and file.read()[4:8] == b"IEND"
    except OSError:  # absent, or shorter than an end mark
        return False


def _refuse_black(picture: np.ndarray, prompt: Prompt) -> None:
    if not picture.any():
        raise UserError(
            f"the image of prompt {prompt.prompt_id} is entirely black, because some values are not finite; use "
            "a wider precision for the model, or weights from an earlier step"
        )
