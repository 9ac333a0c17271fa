"""Lists of existing images: the prompt and the prompt set that each image belongs to."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignbench.data import prompts as prompt_sets
from alignbench.data.prompts import Prompt, PromptSet, check_prompt_id
from alignbench.data.storage.text_tables import TextRow, columns_of, read_rows
from alignbench.errors import UserError
from alignbench.reading import read_json

FILE_COLUMNS = ("file", "file_name", "filename", "file_path", "image", "path")
PROMPT_COLUMNS = ("prompt", "caption", "text")
LIST_SUFFIXES = (".jsonl", ".csv", ".tsv")  # .json as well; in a folder, only manifest.json
SHIPPED = (
    prompt_sets.hpdv2, prompt_sets.parti, prompt_sets.drawbench, prompt_sets.geneval, prompt_sets.pickapic_test,
    prompt_sets.imagereward_test, prompt_sets.text_rendering,
)  # fmt: skip
OWN = "own"


def read_image_list(path: Path) -> tuple[PromptSet, dict[str, list[str]]]:
    """Read a list of images and their prompts.

    The list has one of FILE_COLUMNS, with paths that are absolute or relative to the folder of the list, and one of
    PROMPT_COLUMNS. It may have prompt_id and group. A .json file may also be an object of prompts by file. If there is
    no prompt_id and all prompts are in one shipped set, byte for byte, they get its ids and groups. Otherwise ids are
    made from the text alone, so that two lists with the same prompts have the same ids in any order.

    Returns:
        The whole set, a shipped one or `own`; and the absolute paths of the images by prompt id, in the order of the
        list.

    Raises:
        UserError: the list is damaged, empty or ambiguous, or names an image that does not exist.
    """
    rows = _list_rows(path)
    if not rows:
        raise UserError(f"{path} lists no images")
    columns = columns_of(rows)
    file_column, prompt_column = (
        _column(path, columns, what, names) for what, names in (("file", FILE_COLUMNS), ("prompt", PROMPT_COLUMNS))
    )
    texts = [row.prompt(prompt_column) for row in rows]
    images = _images(path, rows, file_column)
    if "prompt_id" in columns:
        ids = [row.identifier("prompt_id") for row in rows]
        for row, prompt_id in zip(rows, ids, strict=True):
            check_prompt_id(prompt_id, row.location)
    else:
        if shipped := _shipped(texts):
            return shipped, _numbered(shipped, texts, images)
        ids = [id_of_text(text) for text in texts]

    first: dict[str, tuple[str, Prompt]] = {}
    of_prompt: defaultdict[str, list[str]] = defaultdict(list)
    for row, prompt_id, text, image in zip(rows, ids, texts, images, strict=True):
        prompt = Prompt(prompt_id, text, row.groups())
        location, before = first.setdefault(prompt_id, (row.location, prompt))
        if before.prompt != text:
            raise UserError(
                f"{row.location} gives the prompt_id {prompt_id} to {text!r}, but {location} gives it to "
                f"{before.prompt!r}"
            )
        if before.groups != prompt.groups:
            raise UserError(
                f"{row.location} puts {text!r} in group {_group(prompt)}, but {location} puts it in {_group(before)}"
            )
        of_prompt[prompt_id].append(image)
    return PromptSet(OWN, tuple(prompt for _, prompt in first.values()), len(first)), of_prompt


def id_of_text(prompt: str) -> str:
    """Return the id of a prompt that has no other: it depends on the text alone."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:12]


def is_run(content: Any) -> bool:
    """Say whether a manifest.json is the manifest of a run of this program, not a list of images."""
    return isinstance(content, dict) and {"schema_version", "run", "method", "model"} <= content.keys()


def _list_rows(path: Path) -> list[TextRow]:
    """Return the rows of a list; a .json file holds a list of objects, or an object of prompts by file."""
    if path.suffix != ".json":
        return read_rows(path)
    content = read_json(path)
    if is_run(content):
        raise UserError(f"{path} is the manifest of a run; give the folder that holds it")
    if isinstance(content, dict):
        content = [{FILE_COLUMNS[0]: file, PROMPT_COLUMNS[0]: prompt} for file, prompt in content.items()]
    if not isinstance(content, list) or not all(isinstance(values, dict) for values in content):
        raise UserError(f"{path} is not a list of images; expected a list of objects, or an object of prompts by file")
    return [TextRow(f"entry {number} of {path}", values) for number, values in enumerate(content, 1)]


def _column(path: Path, columns: Sequence[str], what: str, names: Sequence[str]) -> str:
    found = [name for name in names if name in columns]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{path} has the columns {', '.join(found)}, any of which could be the {what}; keep one")
    raise UserError(f"{path} has no column for the {what} ({', '.join(names)}); its columns are {', '.join(columns)}")


def _images(path: Path, rows: Sequence[TextRow], column: str) -> list[str]:
    """Return the absolute path of each row's image."""
    seen: dict[str, str] = {}
    images, missing = [], []
    for row in rows:
        name = row.text(column)
        image = str(path.parent / name)  # an absolute path stays as it is
        if (other := seen.setdefault(os.path.normpath(image), row.location)) is not row.location:
            raise UserError(f"{row.location} lists {name}, which {other} lists too")
        if not os.path.isfile(image):
            missing.append(f"{name!r} in {row.location}")
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
    """Return the images by prompt id. If a text has several ids, its images are given to them in turn."""
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
