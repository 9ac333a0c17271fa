"""Real images of evaluation prompts as a row of the tables, which the images of a method can be compared with."""

import hashlib
import importlib.metadata
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from alignbench.data.existing_images.folders import read_image_folders
from alignbench.data.prompts import PromptSet
from alignbench.errors import UserError
from alignbench.files import write_text
from alignbench.store.image_records import (
    ImageSet,
    PromptRecord,
    read_prompts,
    read_sampling,
    write_prompts,
    write_sampling,
)
from alignbench.store.manifest import DATA, Manifest
from alignbench.store.origin.provenance import PACKAGES, commit
from alignbench.store.run_folder import RunFolder


def real_records(folder: str, prompts: PromptSet, num_images: int) -> list[PromptRecord]:
    """Return the prompts that a folder has real images of, by absolute paths; a caption must equal its prompt.

    Args:
        folder: as for `model.folders`.
        num_images: of a prompt at most.

    Raises:
        UserError: the folder cannot be read, or none of its captions is a prompt of the set.
    """
    [found] = read_image_folders([folder])
    of_text: dict[str, tuple[str, ...]] = {}
    for record in found.records:
        of_text[record.prompt] = (*of_text.get(record.prompt, ()), *record.images)
    records = [
        PromptRecord(prompt.prompt_id, prompt.prompt, tuple(prompt.groups), of_text[prompt.prompt][:num_images])
        for prompt in prompts
        if prompt.prompt in of_text
    ]
    if not records:
        raise UserError(
            f"real_images={folder} has no image whose caption is a prompt of prompts={prompts.name}; give images of "
            "these prompts, or leave real_images out"
        )
    return records


def open_real_images(cfg: DictConfig, prompts: PromptSet, base_images: Path) -> tuple[RunFolder, ImageSet]:
    """Make the run folder of the real images, and return what is to be scored in it.

    Args:
        base_images: folder of the base run's images, beside which they are shown.
    """
    prompt_set, sampling_hash = base_images.parts[-2:]
    folder = Path(cfg.real_images).expanduser().resolve()
    identity = hashlib.sha256(str(folder).encode()).hexdigest()[:10]
    run = RunFolder(Path(cfg.results) / f"{DATA}-{cfg.model.name}-{identity}")
    run.open(
        Manifest(
            run=run.name,
            method=DATA,
            model=cfg.model.name,
            seed=None,
            config_hash=identity,
            recipe_hash=identity,
            start_weights={"images": str(folder)},
            package_versions={name: importlib.metadata.version(name) for name in PACKAGES},
            commit=commit(),
        )
    )
    settings = OmegaConf.to_yaml(OmegaConf.masked_copy(cfg, ["real_images"]))
    run.store(run.config_file, lambda file: write_text(file, settings))
    images, made = run.images(prompt_set, sampling_hash), read_sampling(base_images)
    found = real_records(cfg.real_images, prompts, made.num_images_per_prompt)
    before = read_prompts(images) if (images / "prompts.jsonl").exists() else []  # of a larger request
    records = list({record.prompt_id: record for record in (*before, *found)}.values())
    # a row over a part of the prompts on purpose, which takes none from the others
    sampling = replace(made, full_size=prompts.full_size, subset=len(records) < prompts.full_size)
    write_prompts(images, records)
    write_sampling(images, sampling)
    run.complete("generate", f"{prompt_set}/{sampling_hash}", [images / "prompts.jsonl", images / "sampling.json"])
    return run, ImageSet(prompt_set, sampling_hash, records, size=None, generated=False)
