"""Score and compare images that exist already: a run folder for each folder of images, and the same tables as ever."""

import hashlib
import importlib.metadata
import re
from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from alignbench.data.existing_images.folders import ImageFolder, is_by_text, read_compared_folders
from alignbench.devices import device_name
from alignbench.errors import UserError
from alignbench.files import write_text
from alignbench.scoring.compare import Comparing
from alignbench.scoring.session import Scoring
from alignbench.stages.turns import turn
from alignbench.store.image_records import ImageSet, store_records
from alignbench.store.manifest import BASE, Manifest
from alignbench.store.origin.provenance import PACKAGES, commit
from alignbench.store.run_folder import RunFolder, readable_manifests
from alignbench.store.training_data import data_of_run, write_training_data
from alignbench.terminal.console import headed

SAMPLING = "existing"  # in the place of a sampling's hash: how these images were made is not ours to know


def compare_existing(cfg: DictConfig, accelerator: Accelerator, console: Console) -> list[RunFolder]:
    """Do the score and report stages for existing images; return their run folders, base first.

    Raises:
        UserError: the folders cannot be compared, or images cannot be scored.
    """
    folders = read_compared_folders(cfg.model.folders)
    first = folders[0]
    model = cfg.model.name or _name_of(first)
    scoring = Scoring(cfg, first.prompt_set, _texts(folders), accelerator, console) if cfg.evaluators else None
    methods = [BASE, *(folder.label for folder in folders[1:])]
    names = (f"{method}-{model}-{_identity(folder)}" for method, folder in zip(methods, folders, strict=True))
    runs = [RunFolder(Path(cfg.results) / name) for name in names]
    _refuse_other_base(runs[0], model)
    num_prompts = len({record.prompt_id for folder in folders for record in folder.records})
    console.print(headed(model, "images that exist already"))
    console.print(f"  prompts     {first.prompt_set}, {num_prompts} of {first.sampling.full_size}")
    if all(is_by_text(folder) for folder in folders) and len(folders) > 1:
        console.print("  pairs       by the texts of the prompts, since the folders have no ids in common or lack them")
    for folder, run, method in zip(folders, runs, methods, strict=True):
        console.print(f"  {method:10}  {folder.path}, {len(folder.images)} images")
        if accelerator.is_main_process:
            _open(cfg, run, folder, method, model, accelerator)
    accelerator.wait_for_everyone()
    if scoring is not None and "score" in cfg.stages:
        scoring.calibrate()
        for folder, run in zip(folders, runs, strict=True):
            scoring.score(run, _image_set(folder))
        scoring.network_pool.clear()  # a comparer may need the memory
    if "compare" in cfg.stages:
        comparing = Comparing(cfg, first.prompt_set, SAMPLING, accelerator, console)
        with turn("compare", comparing.folder, comparing.work_share, accelerator, console):
            for run in runs[1:]:
                comparing.compare(run)
    if not accelerator.is_main_process:
        return runs
    if scoring is not None and (left := scoring.left()):
        console.print(f"score: {left} images are left for the other shards")
    elif "report" in cfg.stages:
        from alignbench.report.terminal.run_tables import print_run
        from alignbench.report.write import write_report, write_run_pictures

        tables = write_report(Path(cfg.results))
        shown = [RunFolder(Path(cfg.results) / name) for name in tables.labels]
        for run in runs[1:] or runs:
            pictures = write_run_pictures(run, shown)
            print_run(run, tables, console)
            for picture in pictures:
                console.print(f"     picture  {picture}")
    return runs


def _image_set(folder: ImageFolder) -> ImageSet:
    return ImageSet(
        folder.prompt_set, SAMPLING, folder.records, size=None, generated=False, frames=folder.sampling.frames
    )


def _refuse_other_base(run: RunFolder, model: str) -> None:
    """Refuse a second base of one model, between which tables could not choose, before hours of scoring."""
    for other, manifest in readable_manifests(run.path.parent):
        if other.name != run.name and (manifest.method, manifest.model) == (BASE, model):
            images = manifest.start_weights.get("images", "other images")
            raise UserError(
                f"{other.path} holds a comparison with {images} under the name {model} already; its list or its files "
                "have changed, or it is another folder: give model.name=NAME or another results folder, or delete it"
            )


def _identity(folder: ImageFolder) -> str:
    """Return the hash of where the images are and what they are of."""
    return hashlib.sha256(f"{folder.path}\0{folder.fingerprint}".encode()).hexdigest()[:10]


def _name_of(folder: ImageFolder) -> str:
    """Return how tables call a comparison with this folder, unlike any model that runs here."""
    label = re.sub(r"[^\w.]", "_", folder.label)
    return f"{folder.model or label}_images"


def _texts(folders: list[ImageFolder]) -> list[str]:
    return list(dict.fromkeys(record.prompt for folder in folders for record in folder.records))


def _open(
    cfg: DictConfig, run: RunFolder, folder: ImageFolder, method: str, model: str, accelerator: Accelerator
) -> None:
    """Make the run folder, with what later stages read in place of generated images."""
    identity = _identity(folder)
    manifest = Manifest(
        run=run.name,
        method=method,
        model=model,
        seed=None,
        config_hash=identity,
        recipe_hash=identity,
        fingerprints={"images": folder.fingerprint},
        start_weights={"images": str(folder.path)},
        package_versions={name: importlib.metadata.version(name) for name in PACKAGES},
        commit=commit(),
        devices=[device_name(accelerator.device)] * accelerator.num_processes,
    )
    learned = None
    if folder.model is not None:  # a run of this program made them: what it cost and saw stays true
        maker = RunFolder(folder.path.resolve().parents[2])
        made_by = maker.manifest
        seen = ("trained_on", "trained_prompt_sets")
        kept = (*seen, "budget", "selected_step", "selected_by", "weights_kind", "weight_distance")
        manifest = replace(manifest, **{name: getattr(made_by, name) for name in kept})
        manifest.start_weights.update(made_by.start_weights)
        learned = data_of_run(maker)
    run.open(manifest)
    if learned is not None:
        write_training_data(run, learned)
    settings = OmegaConf.to_yaml(OmegaConf.masked_copy(cfg, ["model", "evaluators", "features", "calibration"]))
    run.store(run.config_file, lambda file: write_text(file, settings))
    images = run.images(folder.prompt_set, SAMPLING)
    store_records(run, images, folder.records, folder.sampling)
    run.complete("generate", f"{folder.prompt_set}/{SAMPLING}")
