"""Whether what came out of a capsule is what a run of this program is: everything is read once, nothing is built."""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from alignbench.capsule.archive import ASK_AGAIN, extract, read_member, read_members
from alignbench.capsule.check_numbers import check_scores, check_taken
from alignbench.capsule.contents import (
    CONTENTS,
    MIB,
    NAME,
    Contents,
    check_names,
    member_name,
    most_bytes,
    parse_contents,
)
from alignbench.capsule.thumbnails import check_thumbnail
from alignbench.configuration.run_config import read_plain_config
from alignbench.data.prompts import MAX_ID
from alignbench.errors import UserError
from alignbench.reading import parquet_errors
from alignbench.report.image_measures.taken import Taken
from alignbench.report.readable import by_images, check_run
from alignbench.report.tables import ScoreReader
from alignbench.store.image_records import image_name, read_prompts, read_sampling
from alignbench.store.origin.capsule_record import write_contents
from alignbench.store.run_folder import RunFolder
from alignbench.text import printable

_ID = re.compile(NAME)
MAX_CONTENTS = 256 * MIB
MAX_IMAGES = 2_000_000  # of one run on one prompt set
MAX_PROMPT, MAX_GROUPS = 100_000, 500  # characters of a prompt, and groups of a prompt set: each is a row of tables
MAX_GROWTH = 64  # how many times as large a table of a capsule may be in memory
MAX_TABLE = 2**30  # bytes of a table in memory


def unpack(path: Path, into: Path) -> tuple[Contents, str]:
    """Write the runs of a capsule into an empty folder; return what it holds, and the sha256 of its contents.

    Raises:
        UserError: a bit of the file has changed, or it holds something else than a capsule does.
    """
    contents, digest = extract_all(path, into)
    for name, run in contents.runs.items():
        folder = RunFolder(into / name)
        with _in_capsule(path, into):
            check_unpacked(folder)
            if lost := [file for file in run.files if not (folder.path / file).exists()]:
                raise UserError(f"{folder.path / lost[0]} is damaged")  # a store of features drops such a file
        write_contents(folder, run)
    return contents, digest


def extract_all(path: Path, into: Path) -> tuple[Contents, str]:
    """Do what `unpack` does; whether the files are those of runs is not looked at.

    Raises:
        UserError: a bit of the file has changed, or it holds files that no capsule holds.
    """
    members = read_members(path)
    if CONTENTS not in members or members[CONTENTS].size > MAX_CONTENTS or [*members][-1] != CONTENTS:
        raise UserError(f"{path} does not end with a {CONTENTS} and is no capsule; give a file that pack has written")
    with path.open("rb") as file:
        text = read_member(file, members[CONTENTS])
        contents = parse_contents(text, path)
        check_names(contents, members, path)
        for name, run in contents.runs.items():
            for inside, expected in run.files.items():
                if extract(file, members[member_name(name, inside)], into / name / inside) != expected:
                    raise UserError(
                        f"{member_name(name, inside)} of {path} has changed since it was packed; {ASK_AGAIN}"
                    )
    return contents, hashlib.sha256(text).hexdigest()


@contextmanager
def _in_capsule(path: Path, into: Path) -> Iterator[None]:
    """Name the file of a capsule that a sentence is about, in place of where it was unpacked."""
    try:
        yield
    except UserError as error:
        reason = str(error).replace(f"{into}{os.sep}", "").partition("; ")[0]
        raise UserError(f"{path} cannot be used: {reason}; do not use it") from None


def check_unpacked(run: RunFolder) -> None:
    """Read everything of a run that came out of a capsule.

    Raises:
        UserError: it is no run of this program.
    """
    manifest = run.manifest
    if manifest.run != run.name:
        raise UserError(f"{run.manifest_file} is that of {manifest.run}")
    if not run.name.startswith(f"{manifest.method}-{manifest.model}-"):  # `report`, or a file of the results folder
        raise UserError(f"{run.name} is no name of a run of {manifest.method} on {manifest.model}")
    for folder in (run, *map(RunFolder, run.validation_folders)):
        check_prompts(folder)
        for file in folder.path.glob("scores/*/*/*.parquet"):
            _check_size(file)
        for file in folder.path.glob("statistics/*/*.parquet"):
            _check_size(file)
    for file in run.path.glob("thumbnails/*.jpg"):
        check_thumbnail(file)
    read_plain_config(run.config_file)
    for name in manifest.files:
        if most_bytes(name) and not name.startswith("policy"):
            run.verified(run.path / name)
    if not run.policy.exists() or (run.recorded(run.policy) is not None and run.verified(run.policy)):
        _check_numbers(run)
        return
    raise UserError(f"{run.policy} is there, and the manifest does not know it")


def _check_numbers(run: RunFolder) -> None:
    """Read what the report reads of a run, and refuse numbers that it could not use."""
    reader = ScoreReader()
    check_run(run, False, reader)
    for folder in (run, *map(RunFolder, run.validation_folders)):
        measured = reader.measurements(folder)
        for entry in measured:
            check_scores(folder, entry)
        for entries in by_images(measured):
            check_taken(Taken(folder, tuple(entries)))


def check_prompts(run: RunFolder) -> None:
    """Refuse images that lie elsewhere, such as those of a list of pictures: a capsule cannot stand for them.

    Raises:
        UserError: naming the first of them.
    """
    for file in sorted(run.path.glob("images/*/*/prompts.jsonl")):
        sampling = read_sampling(file.parent)
        if sampling.prompt_set != file.parts[-3]:
            raise UserError(f"{file.parent / 'sampling.json'} is that of prompts={sampling.prompt_set}")
        known: set[str] = set()
        groups: set[str] = set()
        for record in read_prompts(file.parent):
            groups.update(record.groups)
            if len(record.prompt) > MAX_PROMPT or len(groups) > MAX_GROUPS:
                raise UserError(
                    f"{file} has a prompt of more than {MAX_PROMPT:,} characters or over {MAX_GROUPS} groups"
                )
            for number, name in enumerate(record.images):
                if name != image_name(record.prompt_id, number, sampling.frames is not None):
                    shown = printable(PurePosixPath(name).name)
                    raise UserError(f"{file} names {shown}, an image of other origin; leave the run out")
            if not _ID.fullmatch(record.prompt_id) or len(record.prompt_id.encode()) > MAX_ID:
                raise UserError(f"{file} has a prompt whose id cannot name a file")
            if record.prompt_id in known:
                raise UserError(f"{file} has prompt {record.prompt_id} twice")
            known.add(record.prompt_id)
        if len(known) > MAX_IMAGES:
            raise UserError(f"{file} has more than {MAX_IMAGES:,} prompts")


def _check_size(file: Path) -> None:
    """Refuse a table that is small on the disk and too large for memory."""
    from pyarrow import parquet, types

    with parquet_errors(file), parquet.ParquetFile(file) as opened:
        found, columns = opened.metadata, list(opened.schema_arrow)
        size = sum(found.row_group(number).total_byte_size for number in range(found.num_row_groups))
        most = min(MAX_TABLE, MAX_GROWTH * file.stat().st_size + MIB)
        texts = [one.name for one in columns if types.is_string(one.type) or types.is_binary(one.type)]
        if odd := [one.name for one in columns if one.name not in texts and not types.is_primitive(one.type)]:
            raise UserError(f"{file} has a column {printable(odd[0])} of a kind that a capsule has not")
    if found.num_rows <= MAX_IMAGES and size <= most:
        size += _text_bytes(file, texts)
    if found.num_rows > MAX_IMAGES or size > most:
        raise UserError(f"{file} has {found.num_rows:,} rows and {size:,} bytes in memory, more than a capsule may")


def _text_bytes(file: Path, columns: list[str]) -> int:
    """Return the bytes of all texts of a table: a file may hold a long text once and name it in each row."""
    from pyarrow import compute, parquet

    size = 0
    with parquet_errors(file), parquet.ParquetFile(file, read_dictionary=columns) as opened:
        for batch in opened.iter_batches(columns=columns) if columns else ():
            for texts in batch.columns:
                lengths = compute.call_function("binary_length", [texts.dictionary]).take(texts.indices)
                size += compute.call_function("sum", [lengths.cast("int64")]).as_py() or 0
    return size
