"""Image folders that exist already: which prompt each image belongs to, and what tables call the folder.

Three layouts are known:

- made by this program: an image folder of a run (`prompts.jsonl`, `sampling.json`), or a run folder with one of them;
- that of the HPSv2 benchmark: `<style>/<index:05d>.jpg` (or .jpeg, .png, .webp), the prompts being those of hpdv2;
- a list beside the images: `manifest.json`, or the only .jsonl, .csv or .tsv, with a column for the file and one for
  the prompt; or the path of such a list. Prompts that all are of one shipped set get its ids and groups, so that their
  scores stand beside those of images made here; else the set is called `own`.

Nothing is left out silently: a file that fits no prompt is an error, and a prompt without images makes a subset. Only a
list decides which of the files beside it count.
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
from typing import Any

from alignbench.data import prompts as prompt_sets
from alignbench.data.folder_labels import distinct_labels, path_labels
from alignbench.data.prompts import HPDV2_STYLES, Prompt, PromptSet, check_prompt_id
from alignbench.data.tables import Row, columns_of, parse_json, read_rows, read_text
from alignbench.errors import UserError
from alignbench.results import PromptRecord, RunFolder, SamplingRecord, read_prompts, read_sampling

FILE_COLUMNS = ("file", "file_name", "filename", "file_path", "image", "path")
PROMPT_COLUMNS = ("prompt", "caption", "text")
LIST_SUFFIXES = (".jsonl", ".csv", ".tsv")  # and manifest.json
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
SHIPPED = (
    prompt_sets.hpdv2, prompt_sets.parti, prompt_sets.drawbench, prompt_sets.geneval, prompt_sets.pickapic_test,
    prompt_sets.imagereward_test,
)  # fmt: skip
OWN = "own"
LAYOUTS = (
    f"known are image folders and run folders of this program, the folders {', '.join(HPDV2_STYLES)} of the HPSv2 "
    "benchmark, and a list of images and prompts (manifest.json, or one .jsonl, .csv or .tsv) beside the images"
)


@dataclass(frozen=True)
class ImageFolder:
    """Images of a prompt set that one method or program made.

    Attributes:
        path: absolute; the folder that holds the images, or their list.
        label: how tables call it; path-safe, and unlike that of the other folders read with it.
        prompt_set: name of the prompt set that the images belong to; path-safe.
        records: the prompts that have images, in the order of the set, or of the list; `images` are absolute paths.
        sampling: how the images were made. For those of other programs that is not known: num_inference_steps=0,
            guidance_scale=None, noise="unknown" and seed=0 then say so.
        model: name of the model of the run; None for images of other programs.
    """

    path: Path
    label: str
    prompt_set: str
    records: tuple[PromptRecord, ...]
    sampling: SamplingRecord
    model: str | None

    @cached_property
    def fingerprint(self) -> str:
        """A hash of prompt ids, prompts, groups and names of files relative to the folder; not of what is in them."""
        content = [
            [record.prompt_id, record.prompt, record.groups, [self._relative(image) for image in record.images]]
            for record in self.records
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def _relative(self, image: str) -> str:
        inside = image.startswith(f"{self.path}{os.sep}")  # relpath takes its time, and there are thousands
        return image[len(str(self.path)) + 1 :] if inside else os.path.relpath(image, self.path)


@dataclass(frozen=True)
class _Found:
    """A folder before it has a label.

    Attributes:
        source: what the images were found by, links followed: equal for two ways to name one thing.
        labels: for folders made here, from the shortest; empty for others, whose labels come from their path.
    """

    folder: ImageFolder
    source: Path
    labels: tuple[str, ...] = ()


def read_image_folders(paths: Sequence[str]) -> list[ImageFolder]:
    """Read folders of images, or lists of images, that are to be scored and compared; see above for the layouts.

    Images are looked up, not opened. Labels: the method of a run; for others the name of the folder, with as many names
    of folders above it as tell two of them apart.

    Args:
        paths: folders or lists, absolute or relative to the working folder; `~` is the home folder.

    Returns:
        One entry a path, in their order, all of one prompt set.

    Raises:
        UserError: a path fits no layout or is given twice, a list is damaged or names an image that does not exist, or
            the folders do not belong together.
    """
    found = [_read(path) for path in paths]
    given: dict[Path, str] = {}
    for path, one in zip(paths, found, strict=True):
        if one.source in given:
            raise UserError(
                f"{path} is given twice{'' if given[one.source] == path else f', as {given[one.source]} too'}"
            )
        given[one.source] = path
    lists = Counter(one.folder.path for one in found)  # several in one folder are told apart by their own names
    choices = [
        one.labels or path_labels(one.folder.path, one.source.stem if lists[one.folder.path] > 1 else "")
        for one in found
    ]
    labels = distinct_labels(choices, [bool(one.labels) for one in found])
    folders = [replace(one.folder, label=label) for one, label in zip(found, labels, strict=True)]
    _refuse_different_sets(folders)
    _refuse_different_texts(folders)
    return folders


# ---- which layout


def _read(path: str) -> _Found:
    given = Path(os.path.abspath(Path(path).expanduser()))
    if given.is_file():
        if given.suffix not in (".json", *LIST_SUFFIXES):
            raise UserError(f"{given} is no folder and no list of images; expected a .json, .jsonl, .csv or .tsv file")
        return _read_list(given)
    if not given.is_dir():
        raise UserError(f"{given} does not exist; give a folder of images, or a list of images and prompts")
    entries = _entries(given)
    folders, files = ([name for name, is_file in entries if is_file == wanted] for wanted in (False, True))

    if {"prompts.jsonl", "sampling.json"} <= set(files):
        return _read_made_here(given)
    if "manifest.json" in files and _is_run(_read_json(given / "manifest.json")):
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


def _read_json(path: Path) -> Any:
    return parse_json(read_text(path), str(path))


def _is_run(content: Any) -> bool:
    """Say whether a manifest.json is that of a run of this program, not a list of images."""
    return isinstance(content, dict) and {"schema_version", "run", "method", "model"} <= content.keys()


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
    try:
        sampling, listed = read_sampling(folder), read_prompts(folder)
    except (ValueError, KeyError, TypeError) as error:  # no JSON, no UTF-8, other fields
        raise UserError(
            f"prompts.jsonl or sampling.json of {folder} is damaged ({type(error).__name__}: {error}); make it again"
        ) from None
    if sampling.subset != (len(listed) < sampling.full_size) or not listed:
        raise UserError(
            f"prompts.jsonl of {folder} holds {len(listed)} prompts, which is not what sampling.json says (full_size "
            f"{sampling.full_size}, subset {str(sampling.subset).lower()}); make it again"
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
        return _Found(found, real)  # a copy
    manifest = run.manifest
    with_hash = f"{manifest.method}-{manifest.run.rsplit('-', 1)[-1]}"
    with_sampling = f"{with_hash}-{real.name}"
    longer = (f"{above}-{with_sampling}" for above in path_labels(run.path.parent))
    labels = (manifest.method, with_hash, with_sampling, *longer)
    return _Found(replace(found, model=manifest.model), real, labels)


# ---- the HPSv2 benchmark


def _read_hpdv2(folder: Path, folders: Sequence[str], files: Sequence[str]) -> _Found:
    unknown = [name for name in folders if name not in HPDV2_STYLES]
    unknown += [name for name in files if Path(name).suffix.lower() in IMAGE_SUFFIXES]
    if unknown:
        raise UserError(
            f"{folder} has the layout of the HPSv2 benchmark, and holds {', '.join(unknown[:3])} too "
            f"({len(unknown)} in all); expected the folders {', '.join(HPDV2_STYLES)} only"
        )
    whole = prompt_sets.hpdv2("hpdv2", None)
    sizes = Counter(prompt.groups[0] for prompt in whole)
    images: dict[str, str] = {}
    for style in HPDV2_STYLES:
        for name, is_file in _entries(folder / style) if style in folders else ():
            index, suffix = os.path.splitext(name)
            if not is_file or not re.fullmatch("[0-9]{5}", index) or suffix.lower() not in IMAGE_SUFFIXES:
                raise UserError(
                    f"{folder / style / name} is no image of the HPSv2 benchmark; expected files of five digits and "
                    f"{', '.join(IMAGE_SUFFIXES)}"
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
    """Return names and whether they are files, sorted; listing a folder tells both without a look at each file."""
    with os.scandir(folder) as entries:
        return sorted((entry.name, entry.is_file()) for entry in entries if not entry.name.startswith("."))


# ---- lists


def _read_list(path: Path) -> _Found:
    rows = _list_rows(path)
    if not rows:
        raise UserError(f"{path} lists no images")
    columns = columns_of(rows)
    file_column, prompt_column = (
        _column(path, columns, what, names) for what, names in (("file", FILE_COLUMNS), ("prompt", PROMPT_COLUMNS))
    )
    texts = [row.prompt(prompt_column) for row in rows]
    images = _images(path, rows, file_column)
    source = path.resolve()
    if "prompt_id" in columns:
        ids = [row.text("prompt_id") for row in rows]
        for row, prompt_id in zip(rows, ids, strict=True):
            check_prompt_id(prompt_id, row.place)
    else:
        if shipped := _shipped(texts):
            return _Found(_of_set(path.parent, shipped, _numbered(shipped, texts, images)), source)
        ids = [hashlib.sha256(text.encode()).hexdigest()[:12] for text in texts]

    first: dict[str, tuple[str, Prompt]] = {}
    of_prompt: defaultdict[str, list[str]] = defaultdict(list)
    for row, prompt_id, text, image in zip(rows, ids, texts, images, strict=True):
        prompt = Prompt(prompt_id, text, row.groups())
        place, before = first.setdefault(prompt_id, (row.place, prompt))
        if before.prompt != text:
            raise UserError(
                f"{row.place} gives the prompt_id {prompt_id} to {text!r}, and {place} to {before.prompt!r}"
            )
        if before.groups != prompt.groups:
            raise UserError(f"{row.place} puts {text!r} in group {_group(prompt)}, and {place} in {_group(before)}")
        of_prompt[prompt_id].append(image)
    own = PromptSet(OWN, tuple(prompt for _, prompt in first.values()), len(first))
    return _Found(_of_set(path.parent, own, of_prompt), source)


def _list_rows(path: Path) -> list[Row]:
    """Return the rows of a list; a JSON list holds objects, or is an object of prompts by file."""
    if path.suffix != ".json":
        return read_rows(path)
    content = _read_json(path)
    if _is_run(content):
        raise UserError(f"{path} is the manifest of a run; give the folder that it lies in")
    if isinstance(content, dict):
        content = [{FILE_COLUMNS[0]: file, PROMPT_COLUMNS[0]: prompt} for file, prompt in content.items()]
    if not isinstance(content, list) or not all(isinstance(values, dict) for values in content):
        raise UserError(f"{path} is no list of images; expected a list of objects, or an object of prompts by file")
    return [Row(f"entry {number} of {path}", values) for number, values in enumerate(content, 1)]


def _column(path: Path, columns: Sequence[str], what: str, names: Sequence[str]) -> str:
    found = [name for name in names if name in columns]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{path} has the columns {', '.join(found)}, any of which could be the {what}; keep one")
    raise UserError(f"{path} has no column for the {what} ({', '.join(names)}); its columns are {', '.join(columns)}")


def _images(path: Path, rows: Sequence[Row], column: str) -> list[str]:
    """Return the absolute path of each row's image."""
    seen: dict[str, str] = {}
    images, missing = [], []
    for row in rows:
        name = row.text(column)
        image = str(path.parent / name)  # a name that is absolute stays
        if (other := seen.setdefault(os.path.normpath(image), row.place)) is not row.place:
            raise UserError(f"{row.place} lists {name}, which {other} lists too")
        if not os.path.isfile(image):
            missing.append(f"{name!r} in {row.place}")
        images.append(image)
    if missing:
        raise UserError(f"{len(missing)} of {len(rows)} images do not exist, the first being {missing[0]}")
    return images


def _shipped(texts: Sequence[str]) -> PromptSet | None:
    """Return the first shipped set that holds all these prompts, byte for byte."""
    for build in SHIPPED:
        whole = build(build.__name__, None)
        if set(texts) <= set(whole.texts):
            return whole
    return None


def _numbered(whole: PromptSet, texts: Sequence[str], images: Sequence[str]) -> dict[str, list[str]]:
    """Return the images by prompt id: of a text with several ids, each gets one image before any gets its second."""
    ids: defaultdict[str, list[str]] = defaultdict(list)
    for prompt in whole:
        ids[prompt.prompt].append(prompt.prompt_id)
    occurrences: Counter[str] = Counter()
    of_prompt: defaultdict[str, list[str]] = defaultdict(list)
    for text, image in zip(texts, images, strict=True):
        of_prompt[ids[text][occurrences[text] % len(ids[text])]].append(image)
        occurrences[text] += 1
    return of_prompt


def _group(prompt: Prompt) -> str:
    return prompt.groups[0] if prompt.groups else "none"


def _of_set(folder: Path, whole: PromptSet, images: dict[str, list[str]]) -> ImageFolder:
    records = tuple(
        PromptRecord(prompt.prompt_id, prompt.prompt, prompt.groups, tuple(images[prompt.prompt_id]))
        for prompt in whole
        if prompt.prompt_id in images
    )
    sampling = SamplingRecord(
        prompt_set=whole.name,
        num_inference_steps=0,  # this and the next three: not known
        guidance_scale=None,
        noise="unknown",
        seed=0,
        images_per_prompt=max(len(record.images) for record in records),
        full_size=whole.full_size,
        subset=len(records) < whole.full_size,
    )
    return ImageFolder(folder, "", whole.name, records, sampling, None)


# ---- together


def _refuse_different_sets(folders: Sequence[ImageFolder]) -> None:
    members: defaultdict[str, list[str]] = defaultdict(list)
    for folder in folders:
        members[folder.prompt_set].append(folder.label)
    if len(members) > 1:
        found = " and ".join(f"{name} ({', '.join(labels)})" for name, labels in members.items())
        note = f"; {OWN} are those whose prompts are not all of one shipped set" if OWN in members else ""
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
