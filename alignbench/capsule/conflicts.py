"""Which runs of capsules a results folder can take in, and which contradict what is there."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from pathlib import Path

from alignbench.capsule.join import MANIFEST, Copy, contradictions, other_entries
from alignbench.errors import UserError
from alignbench.files import sha256
from alignbench.report.tables import measurements
from alignbench.store.capsule_record import read_contents
from alignbench.store.run_folder import RunFolder, readable_manifests
from alignbench.store.scores import ScoreInfo

NUM_NAMED = 3  # files that are named where two runs differ
KEEP_APART = "merge into another results folder, or leave one of them out"


@dataclass(frozen=True)
class RunToMerge:
    """The copies of one run in capsules, and what a results folder has of it.

    Attributes:
        there: the copy in the results folder; None where there is none.
        is_own: whether that was made there, and did not come from a capsule.
    """

    name: str
    copies: tuple[Copy, ...]
    there: Copy | None
    is_own: bool


def runs_to_merge(copies: Iterable[Copy], results: Path) -> list[RunToMerge]:
    """Return the runs of capsules by name, if no two copies of a run contradict each other.

    Raises:
        UserError: two copies do; the sentence names them and what differs.
    """
    by_name: dict[str, list[Copy]] = {}
    for copy in copies:
        by_name.setdefault(copy.folder.name, []).append(copy)
    found = []
    for name in sorted(by_name):
        own, folder = by_name[name], RunFolder(results / name)
        there, is_own = None, False
        if folder.path.exists():
            is_own = not folder.is_from_capsule
            if is_own:
                for copy in own:
                    _refuse(copy, str(folder.path), _other_files(copy, folder))
            else:
                there = Copy(str(folder.path), folder, read_contents(folder))
        all_copies = own if there is None else [*own, there]
        for one, other in combinations(all_copies, 2):
            _refuse(one, other.source, contradictions(one, other))
        found.append(RunToMerge(name, tuple(own), there, is_own))
    return found


def _refuse(copy: Copy, other: str, differing: Sequence[str]) -> None:
    if differing:
        more = f" and {len(differing) - NUM_NAMED} more" if len(differing) > NUM_NAMED else ""
        named = f"{', '.join(differing[:NUM_NAMED])}{more}"
        raise UserError(f"{copy.folder.name} of {copy.source} differs from that of {other} in {named}; {KEEP_APART}")


def _other_files(copy: Copy, there: RunFolder) -> list[str]:
    """Return in which files a run that was made in the results folder contradicts a capsule; both may have more."""
    own = ((file, there.path / file) for file in sorted(copy.contents.files) if file != MANIFEST)
    found = [file for file, path in own if path.is_file() and sha256(path) != copy.contents.files[file]]
    return found + other_entries(copy.folder.manifest, there.manifest)


def check_evaluators(copies: Iterable[Copy], results: Path) -> None:
    """Refuse scores that one evaluator made in two ways: a results folder never mixes them.

    Raises:
        UserError: naming the evaluator and two runs.
    """
    known: dict[tuple[str, str], tuple[ScoreInfo, str]] = {}
    there = [folder for folder, _ in readable_manifests(results)] if results.is_dir() else []
    names = [one.name for one in fields(ScoreInfo)]
    for run in [*there, *(copy.folder for copy in copies)]:
        for info in {entry.scores.info for entry in measurements(run)}:
            before, where = known.setdefault((info.evaluator, info.version), (info, run.name))
            if other := [name for name in names if getattr(before, name) != getattr(info, name)]:
                raise UserError(
                    f"{info.evaluator}@{info.version} scored {where} and {run.name} with another "
                    f"{' and '.join(other)}, and such scores are not comparable; {KEEP_APART}"
                )
