"""Begin a study: choose its images and settle its settings, or find the study that the same settings began."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from itertools import combinations
from pathlib import Path
from typing import Literal

from alignbench.errors import UserError, did_you_mean
from alignbench.files import locked, with_check, write_json
from alignbench.store.image_records import PromptRecord, drawn_prompts, read_prompts, read_sampling
from alignbench.store.manifest import BASE, ResultsError
from alignbench.store.run_folder import RunFolder
from alignbench.votes.presets import PRESETS
from alignbench.votes.record import STUDIES, Study, StudyFolder, digest_of


def open_study(
    runs: Sequence[Path],
    preset: str,
    *,
    name: str | None = None,
    prompt_set: str | None = None,
    sampling_hash: str | None = None,
    num_prompts: int | None = None,
    pairs: Literal["all", "base"] = "all",
    prompts_per_rater: int | None = None,
    checks_per_rater: int | None = None,
    leave_out_below: float = 0.75,
    seed: int = 0,
) -> StudyFolder:
    """Begin a study, or return the one that the same settings began.

    Args:
        runs: at least two run folders of one results root and one model, that differ in more than the training seed.
        name: of the study; None for one made of its settings.
        prompt_set, sampling_hash: which images; None where all runs have the same one alone.
        num_prompts: None for as many as the preset has, or all where there are fewer.
        checks_per_rater: None for one check for every ten comparisons, at least 4.

    Raises:
        UserError: the runs cannot be compared so, or the name is that of another study.
    """
    if preset not in PRESETS:
        raise UserError(f"--preset {preset} is unknown;{did_you_mean(preset, sorted(PRESETS))}")
    _check_numbers(num_prompts, prompts_per_rater, checks_per_rater, leave_out_below)
    folders = [RunFolder(Path(path).resolve()) for path in runs]
    model = _check_runs(folders, pairs)
    if strange := [folder.name for folder in folders if folder.is_from_capsule]:
        raise UserError(
            f"{strange[0]} came from a capsule, which holds thumbnails alone, and people vote on images; begin the "
            "study where the images were made"
        )
    chosen_set, chosen_hash = _image_set(folders, prompt_set, sampling_hash)
    if read_sampling(folders[0].images(chosen_set, chosen_hash)).frames is not None:
        raise UserError(f"{runs[0]} holds videos, and a study shows images; choose runs of a model of images")
    shared = _shared_prompts([folder.images(chosen_set, chosen_hash) for folder in folders])
    if num_prompts is not None and num_prompts > len(shared):
        raise UserError(f"--num-prompts {num_prompts} is more than the {len(shared)} prompts that all runs have")
    num_chosen = num_prompts or min(PRESETS[preset].num_prompts, len(shared))
    prompts = drawn_prompts({key: same[0] for key, same in shared.items()}, num_chosen, seed)
    if prompts_per_rater is not None and prompts_per_rater > len(prompts):
        raise UserError(f"--prompts-per-rater {prompts_per_rater} is more than the {len(prompts)} of the study")
    seen = prompts_per_rater or len(prompts)
    num_runs = len(folders)
    a_prompt = num_runs if PRESETS[preset].kind == "grades" else _num_pairs(num_runs, pairs)
    if checks_per_rater is None:
        checks_per_rater = min(max(4, seen * a_prompt // 10), seen * a_prompt)
    images = {
        folder.name: digest_of(
            [folder.images(chosen_set, chosen_hash) / shared[prompt_id][index].images[0] for prompt_id in prompts]
        )
        for index, folder in enumerate(folders)
    }
    study = Study(
        "", preset, model, chosen_set, chosen_hash, tuple(folder.name for folder in folders), prompts, pairs,
        prompts_per_rater, checks_per_rater, leave_out_below, seed, images,
    )  # fmt: skip
    study = replace(study, name=_checked_name(name) or _name_of(study))
    found = StudyFolder(folders[0].path.parent / STUDIES / study.name)
    with locked(found.path / ".lock"):
        if not found.file.exists():
            write_json(found.file, with_check(asdict(study)))
    if found.study != study:
        differing = [
            entry.name for entry in fields(Study) if getattr(found.study, entry.name) != getattr(study, entry.name)
        ]
        raise UserError(f"{found.path} was begun with other {', '.join(differing)}; give another --name")
    return found


def _check_numbers(
    num_prompts: int | None, prompts_per_rater: int | None, checks_per_rater: int | None, leave_out_below: float
) -> None:
    for option, value, least in (
        ("--num-prompts", num_prompts, 1),
        ("--prompts-per-rater", prompts_per_rater, 1),
        ("--checks-per-rater", checks_per_rater, 0),
    ):
        if value is not None and value < least:
            raise UserError(f"{option} {value} must be at least {least}")
    if not 0 <= leave_out_below <= 1:
        raise UserError(f"--leave-out-below {leave_out_below} must lie between 0 and 1")


def _check_runs(folders: list[RunFolder], pairs: str) -> str:
    """Return the model that all runs are of."""
    if len(folders) < 2:
        raise UserError("a study compares at least two runs; give their folders")
    if len({folder.path for folder in folders}) < len(folders):
        raise UserError("a run is given twice; give each once")
    for folder in folders:
        if folder.path.parent != folders[0].path.parent:
            raise UserError(f"{folders[0].path} and {folder.path} lie in different results folders; give runs of one")
    manifests = [folder.manifest for folder in folders]
    models = sorted({manifest.model for manifest in manifests})
    if len(models) > 1:
        raise UserError(f"the runs are of {' and '.join(models)}; tables compare runs of one model, so give those")
    for a, b in combinations(manifests, 2):
        if a.recipe_hash == b.recipe_hash:
            raise UserError(f"{a.run} and {b.run} are one recipe with two seeds; a study compares one run of each")
    if pairs == "base" and BASE not in {manifest.method for manifest in manifests}:
        raise UserError("--pairs base needs the base run among the runs; add its folder")
    return models[0]


def _image_set(folders: list[RunFolder], prompt_set: str | None, sampling_hash: str | None) -> tuple[str, str]:
    """Return the only prompt set and sampling, among those asked for, that all runs have finished images of."""
    common = set.intersection(
        *(
            {
                (name, hash_)
                for name, _, hash_ in (key.partition("/") for key in folder.manifest.completed.get("generate", []))
                if prompt_set in (None, name) and sampling_hash in (None, hash_)
            }
            for folder in folders
        )
    )
    if not common:
        asked = "".join(f" {part}" for part in (prompt_set, sampling_hash) if part)
        raise UserError(f"the runs have no finished images{asked} in common; generate them with the same settings")
    if len(common) > 1:
        known = ", ".join(f"--prompt-set {name} --sampling {hash_}" for name, hash_ in sorted(common))
        raise UserError(f"the runs have several sets of images in common; choose one of {known}")
    return next(iter(common))


def _shared_prompts(folders: list[Path]) -> dict[str, list[PromptRecord]]:
    """Return the prompts that all image folders have an image of, each as every folder has it."""
    run_of = [folder.parents[2] for folder in folders]
    for folder, run in zip(folders, run_of, strict=True):
        RunFolder(run).verified(folder / "prompts.jsonl")
    records = [{one.prompt_id: one for one in read_prompts(folder) if one.images} for folder in folders]
    shared = {key: [of[key] for of in records] for key in records[0] if all(key in of for of in records)}
    if not shared:
        raise UserError("the runs share no prompt; generate images of the same prompts")
    for prompt_id, same in shared.items():
        if len({record.prompt for record in same}) > 1:
            raise ResultsError(f"prompt {prompt_id} reads differently in the runs; generate both from one prompt set")
    return shared


def _num_pairs(num_runs: int, pairs: str) -> int:
    return num_runs - 1 if pairs == "base" else num_runs * (num_runs - 1) // 2


def _checked_name(name: str | None) -> str | None:
    if name is not None and not re.fullmatch(r"\w[\w.-]{0,99}", name):
        raise UserError(f"--name {name} becomes a folder; give letters, digits, '_', '.' and '-'")
    return name


def _name_of(study: Study) -> str:
    values = json.dumps(asdict(study), sort_keys=True)
    return f"{study.preset}-{study.model}-{hashlib.sha256(values.encode()).hexdigest()[:10]}"
