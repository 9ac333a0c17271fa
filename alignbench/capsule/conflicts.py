"""Which runs of capsules a results folder can take in, and which contradict what is there."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from pathlib import Path
from typing import Any

from alignbench.capsule.join import MANIFEST, Copy, contradictions, other_entries
from alignbench.errors import UserError
from alignbench.files import sha256
from alignbench.report.tables import measurements
from alignbench.scoring.feature_rows import FeatureInfo, feature_rows
from alignbench.store.origin.capsule_record import read_contents
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


def check_comparable(copies: Sequence[Copy], results: Path) -> None:
    """Refuse runs that tables cannot show beside those that are there.

    Raises:
        UserError: one evaluator, or one kind of features, worked in two ways, or two runs are one training; the
            sentence names both.
    """
    known: dict[tuple[str, ...], dict[Any, str]] = {}  # the ways in which each worked, and the first run of each
    twins: dict[tuple[str, str, int | None], str] = {}
    there = [folder for folder, _ in readable_manifests(results)] if results.is_dir() else []
    for run in [*there, *(copy.folder for copy in copies)]:
        try:
            found = _ways(run)
        except UserError:
            if run in there:  # the report names it
                continue
            raise
        for key, how in found.items():
            ways = known.setdefault(key, {})
            if ways and how not in ways and run not in there:  # the report names runs that are there
                before, where = next(iter(ways.items()))
                other = [one.name for one in fields(how) if getattr(before, one.name) != getattr(how, one.name)]
                raise UserError(
                    f"{'@'.join(key[1:])} worked on {where} and on {run.name} with another {' and '.join(other)}, and "
                    f"such {key[0]} are not comparable; {KEEP_APART}"
                )
            ways.setdefault(how, run.name)
        manifest = run.manifest
        twin = twins.setdefault((manifest.model, manifest.recipe_hash, manifest.seed), run.name)
        if twin != run.name and run not in there:
            raise UserError(f"{twin} and {run.name} are the same recipe with the same seed; {KEEP_APART}")


def _ways(run: RunFolder) -> dict[tuple[str, ...], ScoreInfo | FeatureInfo]:
    """Return how each evaluator and each kind of features worked on a run, by what it made, its name and version."""
    scores = (entry.scores.info for entry in measurements(run))
    features = (rows.info for rows in feature_rows(run))
    return {("scores", one.evaluator, one.version): one for one in scores} | {
        ("features", one.name, one.version): one for one in features
    }
