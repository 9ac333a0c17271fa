"""Which runs of capsules are new to a results folder, and which contradict what is there."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from alignbench.errors import UserError
from alignbench.files import sha256
from alignbench.report.tables import measurements
from alignbench.store.capsule_record import RunContents, read_contents
from alignbench.store.manifest import Manifest
from alignbench.store.run_folder import RunFolder, readable_manifests
from alignbench.store.scores import ScoreInfo

NUM_NAMED = 3  # files that are named where two runs differ
KEEP_APART = "merge into another results folder, or leave one of them out"


@dataclass(frozen=True)
class Found:
    """A run of a capsule, unpacked.

    Attributes:
        file: the capsule.
    """

    file: Path
    folder: RunFolder
    contents: RunContents


def joined(found: Sequence[Found], results: Path) -> list[Found]:
    """Return the runs that a results folder lacks, each once, by name.

    Raises:
        UserError: a run is there, or in another capsule, with other content.
    """
    new: dict[str, Found] = {}
    for run in sorted(found, key=lambda one: one.folder.name):
        name, there = run.folder.name, RunFolder(results / run.folder.name)
        if there.path.exists():
            if other := _other_files(run, there):
                raise UserError(_conflict(run, str(there.path), other))
            print(f"{name}  is there already")
        elif name in new:
            if other := _unequal(run.contents.files, new[name].contents.files):
                raise UserError(_conflict(run, str(new[name].file), other))
        else:
            new[name] = run
    return list(new.values())


def _conflict(run: Found, there: str, other: Sequence[str]) -> str:
    more = f" and {len(other) - NUM_NAMED} more" if len(other) > NUM_NAMED else ""
    named = ", ".join(other[:NUM_NAMED])
    return f"{run.folder.name} of {run.file} differs from that of {there} in {named}{more}; {KEEP_APART}"


def _unequal(one: dict[str, str], other: dict[str, str]) -> list[str]:
    return sorted(file for file in one.keys() | other.keys() if one.get(file) != other.get(file))


def _other_files(run: Found, there: RunFolder) -> list[str]:
    """Return the files of a run that are otherwise in a run folder of that name."""
    if there.is_from_capsule:
        return _unequal(run.contents.files, read_contents(there).files)
    return sorted(file for file, digest in run.contents.files.items() if _differs(run, there, file, digest))


def _differs(run: Found, there: RunFolder, file: str, digest: str) -> bool:
    """Say whether a run that was made here has other content; it may have more than the capsule."""
    if file.startswith("thumbnails/"):
        return False
    if file == "manifest.json":
        return _is_other_manifest(run.folder.manifest, there.manifest)
    return not (there.path / file).is_file() or sha256(there.path / file) != digest


def _is_other_manifest(one: Manifest, other: Manifest) -> bool:
    """Say whether two manifests are of different runs, whatever was done with them since."""
    grows = {"files", "completed", "calibration", "image_costs", "cut_prompts", "trained_on", "trained_prompt_sets"}
    return any(
        getattr(one, entry.name) != getattr(other, entry.name) for entry in fields(Manifest) if entry.name not in grows
    )


def check_evaluators(found: Sequence[Found], results: Path) -> None:
    """Refuse scores that one evaluator made in two ways: a results folder never mixes them.

    Raises:
        UserError: naming the evaluator and two runs.
    """
    known: dict[tuple[str, str], tuple[ScoreInfo, str]] = {}
    runs = [folder for folder, _ in readable_manifests(results)] if results.is_dir() else []
    for run in [*runs, *(one.folder for one in found)]:
        for info in {entry.scores.info for entry in measurements(run)}:
            before, where = known.setdefault((info.evaluator, info.version), (info, run.name))
            names = [one.name for one in fields(ScoreInfo)]
            if other := [name for name in names if getattr(before, name) != getattr(info, name)]:
                raise UserError(
                    f"{info.evaluator}@{info.version} scored {where} and {run.name} with another "
                    f"{' and '.join(other)}; such scores are not comparable: {KEEP_APART}"
                )
