"""Find the picture of each prompt, by file names or by a list."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from alignbench.data.existing_images.lists import FILE_COLUMNS, LIST_SUFFIXES
from alignbench.data.prompts import PromptSet
from alignbench.data.storage.text_tables import columns_of, read_rows
from alignbench.errors import UserError
from alignbench.files import sha256
from alignbench.images import SUFFIXES


def pictures_by_prompt(path: Path, key: str) -> dict[str, Path]:
    """Return the picture files of a folder or a list by prompt id.

    Args:
        path: a folder whose files are named after prompt ids, or a list (.csv, .tsv, .jsonl) with the columns
            prompt_id and file; files are relative to the folder of the list, or absolute.
        key: configuration key of the path, for messages.

    Raises:
        UserError: there are no pictures, one is missing, or a prompt has two.
    """
    if path.is_dir():
        with os.scandir(path) as entries:
            names = sorted(entry.name for entry in entries if entry.is_file())
        found = [(Path(name).stem, path / name) for name in names if Path(name).suffix.lower() in SUFFIXES]
        if not found:
            raise UserError(f"{key}={path} holds no pictures; expected files like PROMPT_ID.png")
    elif path.is_file() and path.suffix in LIST_SUFFIXES:
        found = _listed(path, key)
    else:
        raise UserError(
            f"{key}={path} is neither a folder nor a list in {', '.join(LIST_SUFFIXES)}; give a folder of files like "
            f"PROMPT_ID.png, or a list of prompt_id and file"
        )
    files: dict[str, Path] = {}
    for prompt_id, file in found:
        if prompt_id in files:
            raise UserError(f"{key}={path} has {files[prompt_id].name} and {file.name} for one prompt; keep one")
        files[prompt_id] = file
    return files


def _listed(path: Path, key: str) -> list[tuple[str, Path]]:
    rows = read_rows(path)
    columns = columns_of(rows)
    names = [name for name in FILE_COLUMNS if name in columns]
    if "prompt_id" not in columns or len(names) != 1:
        raise UserError(
            f"{key}={path} must have the column prompt_id and one of {', '.join(FILE_COLUMNS)}; its columns are "
            f"{', '.join(columns) or 'none'}"
        )
    found = [(row.identifier("prompt_id"), path.parent / row.text(names[0])) for row in rows]
    if missing := [file for _, file in found if not file.is_file()]:
        raise UserError(f"{len(missing)} of {len(found)} files in {path} do not exist, the first being {missing[0]}")
    return found


def refuse_prompts_without(files: Mapping[str, Path], prompts: PromptSet, key: str, path: str) -> None:
    """Refuse prompts that have no picture.

    Raises:
        UserError: some prompts have no picture; the message names the first of them.
    """
    if missing := [prompt.prompt_id for prompt in prompts if prompt.prompt_id not in files]:
        named = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise UserError(
            f"{len(missing)} of {len(prompts)} prompts of prompts={prompts.name} have no picture in {key}={path}: "
            f"{named}; add files like {missing[0]}.png, or list only prompts that have one in a file: "
            "prompts=file prompts.path=FILE"
        )


def digest(files: Mapping[str, Path]) -> str:
    """Return a hash of pictures and the ids of their prompts."""
    lines = (f"{prompt_id}\0{sha256(file)}\n" for prompt_id, file in sorted(files.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()
