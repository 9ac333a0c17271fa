"""One run on the disk: where its files are, what is done in it, and whether they are as they were written.

Stages talk only through these files. Only the main process writes; a failure to store raises and so stops the run.
The manifest's `files` is the ledger: the sha256 of each file that is read later. Whoever reads such a file checks it
first, by `RunFolder.verified` or `checked`, also where its content goes on into another file.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alignbench.errors import UserError
from alignbench.files import flush_files, is_intact, locked, quick_sha256, sha256, without_check
from alignbench.reading import read_json_lines
from alignbench.store.manifest import Manifest, ResultsError

STEP = re.compile(r"step-\d{1,18}")  # name of the folder of a look, or of a checkpoint


@dataclass(frozen=True)
class RunFolder:
    """One run on the disk: where things are, what is done, and whether they are as they were written."""

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def short_name(self) -> str:
        """Method and model, without the hash that ends the name of a run."""
        return re.sub(r"-[0-9a-f]{10}$", "", self.name)

    @property
    def manifest_file(self) -> Path:
        return self.path / "manifest.json"

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def train_log(self) -> Path:
        return self.path / "train.jsonl"

    @property
    def validation_table(self) -> Path:
        return self.path / "validation.csv"

    @property
    def logs(self) -> list[Path]:
        """What was logged while the run trained, those that are there; complete once it has."""
        return [file for file in (self.train_log, self.validation_table) if file.exists()]

    @property
    def validation_folders(self) -> list[Path]:
        """The run folders of the looks at this run while it trained, those that are still there, by step."""
        found = (file.parent for file in self.path.glob("validation/step-*/manifest.json"))
        return sorted((path for path in found if STEP.fullmatch(path.name)), key=lambda path: int(path.name[5:]))

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def rewards(self) -> Path:
        """Folder of what its rewards keep while it trains, a folder for each by its name."""
        return self.path / "rewards"

    @property
    def profile(self) -> Path:
        """Folder of what `profile=true` recorded of its updates."""
        return self.path / "profile"

    @property
    def profile_figures(self) -> Path:
        return self.profile / "profile.json"

    @property
    def policy(self) -> Path:
        return self.path / "policy"

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints / f"step-{step}"

    def remove_checkpoints(self) -> None:
        """Remove what only training needed; all may be gone."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    def images(self, prompt_set: str, sampling_hash: str) -> Path:
        return self.path / "images" / prompt_set / sampling_hash

    def scores(self, prompt_set: str, sampling_hash: str) -> Path:
        return self.path / "scores" / prompt_set / sampling_hash

    def score_file(self, prompt_set: str, sampling_hash: str, evaluator: str, version: str) -> Path:
        return self.scores(prompt_set, sampling_hash) / f"{evaluator}@{version}.parquet"

    def statistics_file(self, prompt_set: str, sampling_hash: str) -> Path:
        return self.path / "statistics" / prompt_set / f"{sampling_hash}.parquet"

    @property
    def features(self) -> Path:
        """Folder of the feature vectors of its images."""
        return self.path / "features"

    @property
    def capsule_record(self) -> Path:
        """What came with a run that was not made here: see `alignbench.store.origin.capsule_record`."""
        return self.path / "capsule.json"

    @property
    def is_from_capsule(self) -> bool:
        """Whether the run came from a capsule, so that it has thumbnails in place of images."""
        return self.capsule_record.exists()

    def thumbnail(self, digest: str) -> Path:
        """Return the small picture of an image, by the digest that its scores have of it."""
        return self.path / "thumbnails" / f"{digest}.jpg"

    @property
    def manifest(self) -> Manifest:
        """The manifest as it is on the disk now."""
        return Manifest.read(self.manifest_file)

    def open(self, manifest: Manifest) -> Manifest:
        """Start the folder with `manifest`, or return the one that is there if it belongs to the same configuration.

        Raises:
            ResultsError: when the folder was written by another schema version or for another configuration.
        """
        with locked(self.path / ".lock"):  # or of two that start together, the second would undo what the first notes
            if not self.manifest_file.exists():
                manifest.write(self.manifest_file)
                return manifest
        found = self.manifest
        if found.config_hash != manifest.config_hash:
            raise ResultsError(
                f"{self.path} was made with configuration {found.config_hash}, expected {manifest.config_hash}; "
                "choose another results folder or delete this one"
            )
        return found

    def update(self, **changes: Any) -> Manifest:
        """Change entries of the manifest; dictionaries are merged into what is there."""
        with locked(self.path / ".lock"):  # two commands may add to the same run, a shared base run, say
            found = self.manifest
            merged = {k: {**getattr(found, k), **v} if isinstance(v, dict) else v for k, v in changes.items()}
            manifest = replace(found, **merged)
            if manifest != found:
                manifest.write(self.manifest_file)
        return manifest

    def completed(self, stage: str, key: str = "") -> bool:
        """Say whether a piece of work is done, such as `("score", "<prompt set>/<sampling hash>/<evaluator>@1")`."""
        return self.manifest_file.exists() and key in self.manifest.completed.get(stage, [])

    def complete(self, stage: str, key: str = "", files: Iterable[Path] = ()) -> Manifest:
        """Note that a piece of work is done, and the digests of the files or folders that later stages read."""
        digests = {self._key(path): sha256(path) for path in files}
        with locked(self.path / ".lock"):  # two commands may add to the same run, a shared base run, say
            found = self.manifest
            done = {**found.completed, stage: sorted({*found.completed.get(stage, []), key})}
            manifest = replace(found, completed=done, files={**found.files, **digests})
            manifest.write(self.manifest_file)
        return manifest

    def store(self, path: Path, write: Callable[[Path], None]) -> None:
        """Write a file and its digest, so that a kill between the two leaves either the old file or the new one.

        The file waits under another name until its digest is in the ledger; who finds it there puts it in its place.

        Args:
            write: writes the content to the file that it is given.
        """
        waiting = _waiting(path)
        with locked(self.path / ".lock"):  # or a reader finds an equal file before its time, and puts it in its place
            write(waiting)
            found = self.manifest
            manifest = replace(found, files={**found.files, self._key(path): sha256(waiting)})
            if manifest != found:
                manifest.write(self.manifest_file)
            os.replace(waiting, path)
        flush_files(path)

    def record(self, path: Path) -> None:
        """Note the digest of a file or folder that was just written."""
        self.update(files={self._key(path): sha256(path)})

    def recorded(self, path: Path) -> str | None:
        """Return the sha256 that the ledger has for a file or folder; None where it has none."""
        return self.manifest.files.get(self._key(path))

    def verified(self, path: Path) -> Path:
        """Return `path` if it is as recorded.

        Raises:
            ResultsError: when it is missing, was never recorded, or has changed.
        """
        recorded = self.recorded(path)
        if recorded is not None:
            self._finish_store(path, recorded)
        if recorded is None or not Path(path).exists():
            problem = "was never finished" if recorded is None else "is missing"
            raise ResultsError(f"{path} {problem}; run the stage that makes it again")
        if sha256(path) != recorded:
            raise self._changed(path)
        return Path(path)

    def check_policy(self) -> None:
        """Refuse trained weights that have changed. Their content is read only if a size or a time has changed.

        Weights that were deleted as a whole are nobody's mistake: images and scores are worth keeping without them.

        Raises:
            ResultsError: when they have changed.
        """
        recorded = self.recorded(self.policy)
        if recorded is not None and self.policy.exists() and quick_sha256(self.policy) != recorded:
            raise self._changed(self.policy)

    def _finish_store(self, path: Path, recorded: str) -> None:
        """Put a file in its place that a kill has left waiting."""
        waiting = _waiting(path)
        if waiting.exists():
            with locked(self.path / ".lock"):  # whose writer may be alive and do the same
                if waiting.exists() and sha256(waiting) == recorded:
                    os.replace(waiting, path)

    def _changed(self, path: Path) -> ResultsError:
        made_again = self.path if path == self.policy else path
        return ResultsError(
            f"{path} has changed since it was written (sha256 differs); put the right file back, or delete "
            f"{made_again} and repeat the command that made it"
        )

    def _key(self, path: Path) -> str:
        return Path(path).relative_to(self.path).as_posix()


def checked(path: Path) -> Path:
    """Return `path` if it is as the ledger of its run says, or if no ledger knows it.

    Folders that were copied out of a run, and files that a killed command has not finished, have no entry.

    Raises:
        ResultsError: when it is missing or has changed.
    """
    path = Path(path).absolute()
    root = next((folder for folder in path.parents if (folder / "manifest.json").is_file()), None)
    if root is None or RunFolder(root).recorded(path) is None:
        return path
    return RunFolder(root).verified(path)


def _waiting(path: Path) -> Path:
    return path.with_name(f".{path.name}.waiting")


def run_folders(root: Path) -> list[RunFolder]:
    """Return all run folders under a results root, sorted by name."""
    return [RunFolder(file.parent) for file in sorted(Path(root).glob("*/manifest.json"))]


def readable_manifests(root: Path) -> Iterator[tuple[RunFolder, Manifest]]:
    """Yield the run folders under a results root with their manifests; those that are damaged are passed over."""
    for folder in run_folders(root):
        try:
            manifest = folder.manifest
        except UserError:  # the report names it
            continue
        yield folder, manifest


def intact_lines(path: Path, remedy: str) -> list[dict[str, Any]]:
    """Return the records of a file that grows line by line, each with a digest of its own, which is left out.

    A last line that is being written, or that a kill has cut, is left out, too.

    Args:
        remedy: what to do about a damaged file, as the end of the sentence.

    Raises:
        ResultsError: a line is not as it was written.
    """
    try:
        records = read_json_lines(path)
    except UserError:
        records = None
    if records is None or not all(map(is_intact, records)):
        raise ResultsError(f"{path} has changed since it was written; {remedy}")
    return [without_check(record) for record in records]
