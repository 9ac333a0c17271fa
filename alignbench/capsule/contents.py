"""Which files a capsule may hold, and its list of them: `contents.json`, its last file, with the sha256 of each."""

import json
import re
import unicodedata
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from alignbench.capsule.archive import ASK_AGAIN, Member
from alignbench.errors import UserError
from alignbench.files import CHECK, is_intact, with_check, without_check
from alignbench.reading import check_record, parse_json
from alignbench.store.origin.capsule_record import RunContents
from alignbench.text import printable

CONTENTS = "contents.json"
FORMAT = 1
MAX_RUNS = 1000
KIB, MIB = 2**10, 2**20
NAME = r"[^\W_][\w.-]*"  # of a run, a prompt set, an evaluator: letters of any script, no dot at its beginning
HASH = r"[0-9a-f]{1,64}"
# the files of a run folder, or of a look at it, by their paths in it, and the most bytes that each may have
OF_A_RUN = {
    r"manifest\.json": 16 * MIB,
    rf"images/{NAME}/{HASH}/prompts\.jsonl": 256 * MIB,
    rf"images/{NAME}/{HASH}/sampling\.json": 64 * KIB,
    rf"scores/{NAME}/{HASH}/{NAME}@{NAME}\.parquet": 256 * MIB,
    rf"scores/{NAME}/{HASH}/parts/{NAME}@{NAME}\.evidence\.jsonl": 256 * MIB,
    rf"statistics/{NAME}/{HASH}\.parquet": 512 * MIB,
}
ALLOWED = {
    **OF_A_RUN,
    **{rf"validation/step-\d{{1,18}}/{path}": size for path, size in OF_A_RUN.items()},
    r"config\.yaml": MIB,
    r"train\.jsonl": 512 * MIB,
    r"validation\.csv": 64 * MIB,
    r"training_data\.npy": 256 * MIB,
    rf"features/{NAME}@{NAME}/features\.json": 64 * KIB,
    rf"features/{NAME}@{NAME}/{NAME}\.safetensors": 2**30,
    r"thumbnails/[0-9a-f]{32}\.jpg": 256 * KIB,
    r"policy/pytorch_lora_weights\.safetensors": 8 * 2**30 - 1,
}
_ALLOWED = {re.compile(path): size for path, size in ALLOWED.items()}
_MEMBER = re.compile(rf"runs/({NAME})/(.+)")


@dataclass(frozen=True)
class Contents:
    """What a capsule says that it holds.

    Attributes:
        format: version of this format.
        runs: the files of each run, by its name.
    """

    format: int = FORMAT
    runs: dict[str, RunContents] = field(default_factory=dict)

    def text(self) -> bytes:
        """Return the content of `contents.json`, the only one that stands for these values."""
        values = asdict(self)
        values["runs"] = {
            name: {key: dict(sorted(of.items())) for key, of in run.items()}
            for name, run in sorted(values["runs"].items())
        }
        return (json.dumps(with_check(values), indent=1, ensure_ascii=False) + "\n").encode()


def member_name(run: str, file: str) -> str:
    """Return the name that a file of a run has in a capsule."""
    return f"runs/{run}/{file}"


def most_bytes(file: str) -> int | None:
    """Return how large a file of a run may be; None where a capsule holds no such file.

    Args:
        file: path in the run folder.
    """
    return next((size for path, size in _ALLOWED.items() if path.fullmatch(file)), None)


def parse_contents(text: bytes, path: Path) -> Contents:
    """Return what `contents.json` says.

    Args:
        path: of the capsule.

    Raises:
        UserError: it is not as it was written, or of another format.
    """
    named = f"{CONTENTS} of {path}"
    values = parse_json(text, named, ASK_AGAIN)
    if not isinstance(values, dict):
        raise UserError(f"{named} holds no object; {ASK_AGAIN}")
    if values.get("format") != FORMAT:
        raise UserError(
            f"{named} has format {values.get('format')!r}, expected {FORMAT}; use the alignbench of its maker"
        )
    if CHECK not in values or not is_intact(values):
        raise UserError(f"{named} has changed since it was written; {ASK_AGAIN}")
    checked: dict[str, Any] = without_check(values)
    check_record(Contents, checked, named, ASK_AGAIN)
    found = Contents(FORMAT, {name: RunContents.of_json(run) for name, run in checked["runs"].items()})
    if found.text() != text:
        raise UserError(f"{named} is not written as a capsule's is; {ASK_AGAIN}")
    return found


def check_names(contents: Contents, members: dict[str, Member], path: Path) -> None:
    """Refuse a capsule that holds other files than its contents, or files that no capsule holds.

    Raises:
        UserError: naming the file.
    """
    if not 0 < len(contents.runs) <= MAX_RUNS:
        raise UserError(f"{path} holds {len(contents.runs)} runs, expected 1 to {MAX_RUNS}; {ASK_AGAIN}")
    listed = {member_name(run, file) for run, of in contents.runs.items() for file in of.files}
    found = members.keys() - {CONTENTS}
    if odd := sorted(listed ^ found):
        problem = "lists and does not hold" if odd[0] in listed else "holds and does not list"
        raise UserError(f"{path} {problem} {printable(odd[0])}; {ASK_AGAIN}")
    if len({unicodedata.normalize("NFC", name).casefold() for name in found}) < len(found):
        raise UserError(f"{path} holds two names that some file systems take for one; {ASK_AGAIN}")
    for name in sorted(found):
        match = _MEMBER.fullmatch(name)
        limit = None if match is None else most_bytes(match[2])
        if limit is None:
            raise UserError(f"{path} holds {printable(name)}, which no capsule holds; do not use it")
        if members[name].size > limit:
            raise UserError(f"{path} holds {name} of {members[name].size:,} bytes, more than {limit:,}; do not use it")
    for run, of in contents.runs.items():
        for file in ("manifest.json", "config.yaml"):
            if file not in of.files:
                raise UserError(f"{path} lacks {file} of {run}; {ASK_AGAIN}")
