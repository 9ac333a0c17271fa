"""Existing image folders: the prompt that each image belongs to, and the label of the folder in tables.

There are three layouts:

- made by this program: an image folder of a run (`prompts.jsonl`, `sampling.json`), or a run folder with one of them;
- HPSv2 benchmark: `<style>/<index:05d>.jpg` (or another of `alignbench.images.SUFFIXES`), for the prompts of hpdv2;
- a list with the images: `manifest.json`, or the only .jsonl, .csv or .tsv file of the folder, with a column for the
  file and one for the prompt; or the path of such a list. If all prompts are in one shipped set, they get its ids and
  groups, so that the scores can be compared with those of other images of this set; else the set is called `own`.

Nothing is left out silently: a file without a prompt is an error, and if a prompt has no images, the folder counts as a
subset. If there is a list, it alone decides which files are used.
"""

import hashlib
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from alignbench.data.existing_images.labels import distinct_labels, path_labels
from alignbench.data.existing_images.lists import (
    LIST_SUFFIXES,
    OWN,
    id_of_text,
    is_run,
    read_image_list,
)
from alignbench.data.prompts import HPDV2_STYLES, PromptSet, hpdv2
from alignbench.errors import UserError
from alignbench.images import SUFFIXES
from alignbench.reading import read_json
from alignbench.store.image_records import PromptRecord, SamplingRecord, read_prompts, read_sampling
from alignbench.store.manifest import BASE
from alignbench.store.run_folder import RunFolder

LAYOUTS = (
    f"expected an image folder or run folder of this program, the folders {', '.join(HPDV2_STYLES)} of the HPSv2 "
    "benchmark, or images with a list of files and prompts (manifest.json, or one .jsonl, .csv or .tsv)"
)


@dataclass(frozen=True)
class ImageFolder:
    """Images that one method or program made for a prompt set.

    Attributes:
        path: absolute path of the folder that holds the images or their list.
        label: name in tables; path-safe, and different from those of the other folders read with it.
        prompt_set: name of the prompt set that the images belong to; path-safe.
        records: the prompts that have images, in the order of the set or of the list; `images` are absolute paths.
        sampling: how the images were made. For images of other programs this is unknown, and the fields are
            num_inference_steps=0, guidance_scale=None, noise="unknown" and seed=0.
        model: name of the run's model; None for images of other programs.
    """

    path: Path
    label: str
    prompt_set: str
    records: tuple[PromptRecord, ...]
    sampling: SamplingRecord
    model: str | None

    @cached_property
    def images(self) -> set[tuple[str, int]]:
        """Prompt id and number of every image."""
        return {(record.prompt_id, number) for record in self.records for number in range(len(record.images))}

    @cached_property
    def fingerprint(self) -> str:
        """A hash of prompt ids, prompts, groups and file names relative to the folder; not of the pixels."""
        content = [
            [record.prompt_id, record.prompt, record.groups, [self._relative(image) for image in record.images]]
            for record in self.records
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def _relative(self, image: str) -> str:
        inside = image.startswith(f"{self.path}{os.sep}")  # relpath is slow for thousands of files
        return image[len(str(self.path)) + 1 :] if inside else os.path.relpath(image, self.path)


@dataclass(frozen=True)
class _Found:
    """A folder before it has a label.

    Attributes:
        source: resolved path of the folder or list, equal for two paths to the same one.
        labels: possible labels of a folder made by this program, the shortest first; empty for other folders, whose
            labels are made from their path.
    """

    folder: ImageFolder
    source: Path
    labels: tuple[str, ...] = ()


def read_compared_folders(paths: Sequence[str] | str) -> list[ImageFolder]:
    """Read the folders to compare; the first one is the base.

    Folders of one prompt set are paired by the ids of its prompts. All others, such as a run and a list of photographs,
    are paired by the texts of their prompts, as are folders whose ids are written differently (00000 and 0).

    Raises:
        UserError: there are no folders, one cannot be read, or they share no prompt.
    """
    if not paths:
        raise UserError("model.folders is empty; give folders of images, as in model.folders=[FOLDER_A,FOLDER_B]")
    folders = _read_all([paths] if isinstance(paths, str) else [str(path) for path in paths])
    by_text = [_by_text(folder) for folder in folders]
    if len({folder.prompt_set for folder in folders}) > 1 or _num_paired(by_text) > _num_paired(folders):
        folders = by_text
    _refuse_different_texts(folders)
    first, *others = folders
    for folder in others:
        if not first.images & folder.images:
            raise UserError(
                f"{first.path} and {folder.path} share no prompt, neither by its id nor by its text; give images of "
                f"the same prompts (the first of each: {first.records[0].prompt!r} and {folder.records[0].prompt!r})"
            )
        if folder.label == BASE:
            raise UserError(f"{folder.path} is the base, with which others are compared; give it as the first folder")
    return folders


def read_image_folders(paths: Sequence[str]) -> list[ImageFolder]:
    """Read folders or lists of images to score and compare; the module docstring describes the layouts.

    The images must exist, but they are not opened. The label of a run is its method; the label of another folder is its
    name, with as many parent folders as are needed to make it distinct.

    Args:
        paths: folders or lists, absolute or relative to the working folder; `~` is the home folder.

    Returns:
        One entry for each path, in the same order, all of one prompt set.

    Raises:
        UserError: a path has no known layout or is given twice, a list is damaged or names an image that does not
            exist, or the folders are of different prompt sets.
    """
    folders = _read_all(paths)
    _refuse_different_sets(folders)
    _refuse_different_texts(folders)
    return folders


def _read_all(paths: Sequence[str]) -> list[ImageFolder]:
    """Read folders and give them distinct labels; their prompts may differ."""
    found = [_read(path) for path in paths]
    given: dict[Path, str] = {}
    for path, one in zip(paths, found, strict=True):
        if one.source in given:
            raise UserError(
                f"{path} is given twice{'' if given[one.source] == path else f', as {given[one.source]} too'}"
            )
        given[one.source] = path
    lists = Counter(one.folder.path for one in found)  # several lists in one folder have labels from their file names
    choices = [
        one.labels or path_labels(one.folder.path, one.source.stem if lists[one.folder.path] > 1 else "")
        for one in found
    ]
    labels = distinct_labels(choices, [bool(one.labels) for one in found])
    return [replace(one.folder, label=label) for one, label in zip(found, labels, strict=True)]


# ---- layouts


def _read(path: str) -> _Found:
    given = Path(os.path.abspath(Path(path).expanduser()))
    if given.is_file():
        if given.suffix not in (".json", *LIST_SUFFIXES):
            raise UserError(
                f"{given} is neither a folder nor a list of images; expected a .json, .jsonl, .csv or .tsv file"
            )
        return _read_list(given)
    if not given.is_dir():
        raise UserError(f"{given} does not exist; give a folder of images, or a list of images and prompts")
    entries = _entries(given)
    folders, files = ([name for name, is_file in entries if is_file == wanted] for wanted in (False, True))

    if {"prompts.jsonl", "sampling.json"} <= set(files):
        return _read_made_here(given)
    if "manifest.json" in files and is_run(read_json(given / "manifest.json")):
        return _read_run(given)
    lists = [name for name in files if name == "manifest.json" or Path(name).suffix in LIST_SUFFIXES]
    styles = [name for name in folders if name in HPDV2_STYLES]
    if len(lists) > 1:
        raise UserError(f"{given} holds {', '.join(lists)}; give the path of the one that lists images and prompts")
    if lists and styles:
        raise UserError(
            f"{given} holds {lists[0]} and the HPSv2 folders {', '.join(styles)}; give the path of {lists[0]} if it "
            "lists the images, or move it elsewhere"
        )
    if lists:
        return _read_list(given / lists[0])
    if styles:
        return _read_hpdv2(given, folders, files)
    if not entries:
        raise UserError(f"{given} is empty; {LAYOUTS}")
    kinds = [
        f"{name} such as {kind[0]} ({len(kind)})" for name, kind in (("folders", folders), ("files", files)) if kind
    ]
    raise UserError(f"{given} is of an unknown layout: it holds {' and '.join(kinds)}; {LAYOUTS}")


# ---- made by this program


def _read_run(run: Path) -> _Found:
    folders = sorted(file.parent for file in run.glob("images/*/*/sampling.json"))
    if not folders:
        raise UserError(
            f"the run folder {run} holds no images; make them with stages=[generate], or give another folder"
        )
    if len(folders) > 1:
        names = ", ".join(folder.relative_to(run).as_posix() for folder in folders)
        raise UserError(f"the run folder {run} holds several image folders; give the path of one of {names}")
    return _read_made_here(folders[0])


def _read_made_here(folder: Path) -> _Found:
    sampling, listed = read_sampling(folder), read_prompts(folder)
    if sampling.subset != (len(listed) < sampling.full_size) or not listed:
        raise UserError(
            f"prompts.jsonl of {folder} holds {len(listed)} prompts, which contradicts sampling.json (full_size "
            f"{sampling.full_size}, subset {str(sampling.subset).lower()}); generate the images again"
        )
    with os.scandir(folder) as entries:
        present = {entry.name for entry in entries if entry.is_file()}
    names = [name for record in listed for name in record.images]
    if missing := [name for name in names if name not in present]:
        raise UserError(
            f"{len(missing)} of {len(names)} images of {folder} are missing, such as {missing[0]}; make them with "
            "stages=[generate]"
        )
    records = tuple(replace(r, images=tuple(f"{folder}{os.sep}{name}" for name in r.images)) for r in listed)
    found = ImageFolder(folder, "", sampling.prompt_set, records, sampling, None)

    real = folder.resolve()
    run = RunFolder(real.parents[2]) if len(real.parents) > 2 and real.parents[1].name == "images" else None
    if run is None or not run.manifest_file.is_file():
        return _Found(found, real)  # a copy outside of a run
    manifest = run.manifest
    with_hash = f"{manifest.method}-{manifest.run.rsplit('-', 1)[-1]}"
    with_sampling = f"{with_hash}-{real.name}"
    longer = (f"{above}-{with_sampling}" for above in path_labels(run.path.parent))
    labels = (manifest.method, with_hash, with_sampling, *longer)
    return _Found(replace(found, model=manifest.model), real, labels)


# ---- the HPSv2 benchmark


def _read_hpdv2(folder: Path, folders: Sequence[str], files: Sequence[str]) -> _Found:
    unknown = [name for name in folders if name not in HPDV2_STYLES]
    unknown += [name for name in files if Path(name).suffix.lower() in SUFFIXES]
    if unknown:
        raise UserError(
            f"{folder} has the layout of the HPSv2 benchmark, but also holds {', '.join(unknown[:3])} "
            f"({len(unknown)} in all); expected the folders {', '.join(HPDV2_STYLES)} only"
        )
    whole = hpdv2("hpdv2", None)
    sizes = Counter(prompt.groups[0] for prompt in whole)
    images: dict[str, str] = {}
    for style in HPDV2_STYLES:
        for name, is_file in _entries(folder / style) if style in folders else ():
            index, suffix = os.path.splitext(name)
            if not is_file or not re.fullmatch("[0-9]{5}", index) or suffix.lower() not in SUFFIXES:
                raise UserError(
                    f"{folder / style / name} is not an image of the HPSv2 benchmark; expected files of five digits "
                    "and an image format, such as 00000.jpg"
                )
            if int(index) >= sizes[style]:
                raise UserError(f"{folder / style / name} has no prompt; {style} has 00000 to {sizes[style] - 1:05d}")
            if f"{style}-{index}" in images:
                other = Path(images[f"{style}-{index}"]).name
                raise UserError(f"{folder / style} holds both {other} and {name} for one prompt; delete one")
            images[f"{style}-{index}"] = f"{folder}{os.sep}{style}{os.sep}{name}"
    if not images:
        raise UserError(f"the folders {', '.join(folders)} of {folder} hold no images")
    return _Found(_of_set(folder, whole, {prompt_id: [image] for prompt_id, image in images.items()}), folder.resolve())


def _entries(folder: Path) -> list[tuple[str, bool]]:
    """Return the sorted names in a folder, each with whether it is a file."""
    with os.scandir(folder) as entries:
        return sorted((entry.name, entry.is_file()) for entry in entries if not entry.name.startswith("."))


# ---- lists


def _read_list(path: Path) -> _Found:
    return _Found(_of_set(path.parent, *read_image_list(path)), path.resolve())


# ---- images of other programs


def _of_set(folder: Path, whole: PromptSet, images: dict[str, list[str]]) -> ImageFolder:
    records = tuple(
        PromptRecord(prompt.prompt_id, prompt.prompt, prompt.groups, tuple(images[prompt.prompt_id]))
        for prompt in whole
        if prompt.prompt_id in images
    )
    sampling = SamplingRecord(
        prompt_set=whole.name,
        num_inference_steps=0,  # this and the next three are unknown
        guidance_scale=None,
        noise="unknown",
        seed=0,
        num_images_per_prompt=max(len(record.images) for record in records),
        full_size=whole.full_size,
        subset=len(records) < whole.full_size,
    )
    return ImageFolder(folder, "", whole.name, records, sampling, None)


# ---- comparison of folders


def is_by_text(folder: ImageFolder) -> bool:
    """Say whether the prompts of a folder have ids that were made from their texts."""
    return all(record.prompt_id == id_of_text(record.prompt) for record in folder.records)


def _num_paired(folders: Sequence[ImageFolder]) -> int:
    """Return how many prompts of the first folder the others have under the same id, the fewest of all."""
    prompts = [{(record.prompt_id, record.prompt) for record in folder.records} for folder in folders]
    return min((len(prompts[0] & others) for others in prompts[1:]), default=0)


def _by_text(folder: ImageFolder) -> ImageFolder:
    """Return the same images with ids made from the texts of their prompts; prompts of one text become one."""
    merged: dict[str, PromptRecord] = {}
    for record in folder.records:
        prompt_id = id_of_text(record.prompt)
        before = merged.setdefault(prompt_id, replace(record, prompt_id=prompt_id, images=()))
        merged[prompt_id] = replace(before, images=before.images + record.images)
    records = tuple(merged.values())
    sampling = replace(
        folder.sampling,
        prompt_set=OWN,
        num_images_per_prompt=max(len(record.images) for record in records),
        full_size=len(records),
        subset=False,
    )
    return replace(folder, prompt_set=OWN, records=records, sampling=sampling)


def _refuse_different_sets(folders: Sequence[ImageFolder]) -> None:
    members: defaultdict[str, list[str]] = defaultdict(list)
    for folder in folders:
        members[folder.prompt_set].append(folder.label)
    if len(members) > 1:
        found = " and ".join(f"{name} ({', '.join(labels)})" for name, labels in members.items())
        note = f"; {OWN} means that the prompts are not all in one shipped set" if OWN in members else ""
        raise UserError(f"the image folders must belong to one prompt set, found {found}{note}")


def _refuse_different_texts(folders: Sequence[ImageFolder]) -> None:
    first: dict[str, tuple[str, Path]] = {}
    for folder in folders:
        for record in folder.records:
            text, path = first.setdefault(record.prompt_id, (record.prompt, folder.path))
            if text != record.prompt:
                raise UserError(
                    f"prompt {record.prompt_id} is {text!r} in {path} and {record.prompt!r} in {folder.path}; "
                    "give different prompts different ids"
                )
