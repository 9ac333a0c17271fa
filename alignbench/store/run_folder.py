"""One run on the disk: where its files are, what is done in it, and whether they are as they were written.

Stages talk only through these files. Only the main process writes; a failure to store raises and so stops the run.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from alignbench.files import locked, sha256, write_json
from alignbench.store.manifest import Manifest, ResultsError


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
    def validation_folders(self) -> list[Path]:
        """The run folders of the looks at this run while it trained, those that are still there, by step."""
        found = self.path.glob("validation/step-*/manifest.json")
        return sorted((file.parent for file in found), key=lambda path: int(path.name.removeprefix("step-")))

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def policy(self) -> Path:
        return self.path / "policy"

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints / f"step-{step}"

    def images(self, prompt_set: str, sampling_hash: str) -> Path:
        return self.path / "images" / prompt_set / sampling_hash

    def scores(self, prompt_set: str, sampling_hash: str) -> Path:
        return self.path / "scores" / prompt_set / sampling_hash

    def score_file(self, prompt_set: str, sampling_hash: str, evaluator: str, version: str) -> Path:
        return self.scores(prompt_set, sampling_hash) / f"{evaluator}@{version}.parquet"

    def statistics_file(self, prompt_set: str, sampling_hash: str) -> Path:
        return self.path / "statistics" / prompt_set / f"{sampling_hash}.parquet"

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
                write_json(self.manifest_file, asdict(manifest))
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
                write_json(self.manifest_file, asdict(manifest))
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
            write_json(self.manifest_file, asdict(manifest))
        return manifest

    def verified(self, path: Path) -> Path:
        """Return `path` if it is as recorded.

        Raises:
            ResultsError: when it is missing, was never recorded, or has changed.
        """
        key = self._key(path)
        recorded = self.manifest.files.get(key)
        if recorded is None or not Path(path).exists():
            problem = "was never finished" if recorded is None else "is missing"
            raise ResultsError(f"{path} {problem}; run the stage that makes it again")
        if sha256(path) != recorded:
            raise ResultsError(f"{path} has changed since it was written (sha256 differs); make it again")
        return Path(path)

    def _key(self, path: Path) -> str:
        return Path(path).relative_to(self.path).as_posix()


def run_folders(root: Path) -> list[RunFolder]:
    """Return all run folders under a results root, sorted by name."""
    return [RunFolder(file.parent) for file in sorted(Path(root).glob("*/manifest.json"))]
