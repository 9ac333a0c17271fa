"""What several copies of one run have together, and where they contradict each other.

A base run is in many capsules, with the scores of other evaluators in each. Copies that agree in all files that both
have are one run, which has the files of all. The result does not depend on the order of the copies.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import reduce
from typing import Any

from alignbench.files import sha256
from alignbench.store.manifest import Manifest
from alignbench.store.origin.capsule_record import RunContents
from alignbench.store.run_folder import RunFolder

MANIFEST = "manifest.json"
# Where and when a copy was made: of the copy that was started first. Images and scores agree whatever these say.
CIRCUMSTANCES = ("started", "command", "package_versions", "commit", "devices")
MEASURED = ("calibration", "image_costs")  # by a key, values that differ from machine to machine
JOINED_MAPS = ("files", "cut_prompts")
JOINED_LISTS = ("trained_on", "trained_prompt_sets")
MAY_DIFFER = {*CIRCUMSTANCES, *MEASURED, *JOINED_MAPS, *JOINED_LISTS, "completed"}


@dataclass(frozen=True)
class Copy:
    """A run as a capsule or a results folder has it.

    Attributes:
        source: the file or folder, as users know it.
        contents: its files with their digests; those that the manifest grew by since do not count.
    """

    source: str
    folder: RunFolder
    contents: RunContents


def contradictions(one: Copy, other: Copy) -> list[str]:
    """Return what two copies of a run have both, and differently: files, and entries of their manifests."""
    files = [(copy.contents.files, copy.contents.policy_files) for copy in (one, other)]
    found = [
        name
        for mine, theirs in zip(*files, strict=True)
        for name in sorted(mine.keys() & theirs.keys())
        if name != MANIFEST and mine[name] != theirs[name]
    ]
    return found + other_entries(one.folder.manifest, other.folder.manifest)


def other_entries(one: Manifest, other: Manifest) -> list[str]:
    """Return the entries in which two manifests contradict each other."""
    names = [entry.name for entry in fields(Manifest) if entry.name not in MAY_DIFFER]
    found = [name for name in names if getattr(one, name) != getattr(other, name)]
    ledgers = one.files, other.files
    found += [file for file in sorted(one.files.keys() & other.files.keys()) if len({of[file] for of in ledgers}) > 1]
    return [f"{MANIFEST} ({name})" for name in found]


def with_all_of(target: RunFolder, copies: Iterable[Copy]) -> Manifest:
    """Return the manifest of a run that has what it has now, and what copies of it have."""
    return reduce(_joined, (copy.folder.manifest for copy in copies), target.manifest)


def _joined(one: Manifest, other: Manifest) -> Manifest:
    """Return the manifest of two copies that do not contradict each other."""
    first = min((one, other), key=_circumstances)
    values: dict[str, Any] = {name: getattr(first, name) for name in CIRCUMSTANCES}
    for name in JOINED_MAPS:
        values[name] = dict(sorted({**getattr(one, name), **getattr(other, name)}.items()))
    for name in MEASURED:
        values[name] = _smallest(getattr(one, name), getattr(other, name))
    for name in JOINED_LISTS:
        values[name] = _union(getattr(one, name), getattr(other, name))
    stages = sorted({*one.completed, *other.completed})
    values["completed"] = {
        stage: sorted({*one.completed.get(stage, []), *other.completed.get(stage, [])}) for stage in stages
    }
    result = replace(one, **values)
    return one if result == one else result  # so that the order of entries stays, too


def _circumstances(manifest: Manifest) -> str:
    """Return what decides which copy was first, whatever was joined to it since."""
    return json.dumps([getattr(manifest, name) for name in CIRCUMSTANCES], sort_keys=True)


def _smallest(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of both; of two values the one whose text is smaller, so that the order does not matter."""
    both = {key: [of[key] for of in (one, other) if key in of] for key in sorted(one.keys() | other.keys())}
    return {key: min(values, key=lambda value: json.dumps(value, sort_keys=True)) for key, values in both.items()}


def _union(one: Sequence[str], other: Sequence[str]) -> list[str]:
    return list(one) if {*one} == {*other} else sorted({*one, *other})


def joined_contents(target: RunFolder, contents: Iterable[RunContents]) -> RunContents:
    """Return the record of a run that has the files of several copies.

    Args:
        target: where its manifest is.
    """
    files: dict[str, str] = {}
    policy_files: dict[str, str] = {}
    for one in contents:
        files |= one.files
        policy_files |= one.policy_files
    files[MANIFEST] = sha256(target.manifest_file)
    return RunContents(dict(sorted(files.items())), dict(sorted(policy_files.items())))
