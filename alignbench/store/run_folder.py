"""The results store: what a run folder holds, what is done in it, and whether it is as it was written.

Stages talk only through these files. Only the main process writes; a failure to store raises and so stops the run.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from alignbench.errors import UserError
from alignbench.files import locked, read_json_lines, sha256, write_json, write_json_lines

if TYPE_CHECKING:
    pass

SCHEMA_VERSION = 1
BASE = "base"  # the method of the untouched model, which all others are compared with

BUDGET_COLUMNS = (
    "optimizer_steps", "samples_seen", "network_passes", "rollouts", "reward_calls", "train_seconds", "device_hours",
    "peak_memory_gib", "trainable_parameters",
)  # fmt: skip
LEADERBOARD_COLUMNS = (
    "model", "method", "run", "num_seeds", "seed_sd", "prompt_set", "group", "evaluator", "version", "n", "subset",
    "median", "median_ci_low", "median_ci_high", "mean", "mean_ci_low", "mean_ci_high",
    "win_rate_vs_base", "win_ci_low", "win_ci_high", "p_win", "p_gain", "trained_on", *BUDGET_COLUMNS,
)  # fmt: skip
WIN_RATE_COLUMNS = (
    "model", "prompt_set", "group", "evaluator", "version", "method_a", "method_b", "n", "wins", "ties",
    "win_rate", "ci_low", "ci_high", "p_win", "p_gain",
)  # fmt: skip
RANKING_COLUMNS = (
    "model", "prompt_set", "group", "evaluator", "version", "method", "rank", "strength", "ci_low", "ci_high",
    "fit_gap", "intransitive",
)  # fmt: skip
DIAGNOSTIC_COLUMNS = (
    "model", "method", "run", "num_seeds", "prompt_set", "step", "kind", "measure", "version", "role", "n",
    "value", "ci_low", "ci_high", "base", "difference", "difference_ci_low", "difference_ci_high", "p",
    "win_rate", "win_ci_low", "win_ci_high", "flag",
)  # fmt: skip


class ResultsError(UserError):
    """A results folder that cannot be used as asked; the message is one sentence for the user."""


# The manifest


@dataclass(frozen=True)
class Budget:
    """What a run cost. Zero for the untouched model.

    Attributes:
        network_passes: forward passes of the denoiser counted in samples, rollouts and reference included.
        device_hours: wall time times the number of devices.
        peak_memory_gib: largest over the devices.
    """

    optimizer_steps: int = 0
    samples_seen: int = 0
    network_passes: int = 0
    rollouts: int = 0
    reward_calls: int = 0
    train_seconds: float = 0.0
    device_hours: float = 0.0
    peak_memory_gib: float = 0.0
    trainable_parameters: int = 0


@dataclass(frozen=True)
class Manifest:
    """Everything a later stage or reader must know of a run, kept in `manifest.json`.

    Attributes:
        run: name of the folder, `<method>-<model>-<hash>`.
        seed: training seed; None for the untouched model.
        config_hash: of all that changes the weights, the seed included.
        recipe_hash: the same without the seed; runs that share it are repetitions of each other.
        fingerprints: of the data and prompts that were trained on, by name.
        start_weights: what training started from, with its revision or sha256.
        trained_on: names of the evaluators whose score or labels the training saw.
        trained_prompt_sets: names of the prompt sets of which the training saw prompts.
        calibration: what the calibration of the evaluators came to, by `<evaluator>@<version>`; see
            `alignbench.scoring.calibration`.
        selected_step: the optimizer step whose weights `policy/` holds.
        selected_by: names of the evaluators whose scores on other prompts chose that step; none where it is the last.
        weights_kind: whether those are the raw weights or their moving average.
        weight_distance: how far they are from the start: norm of the change over that of the start, all weights of the
            denoiser together, adapters as what they add; None where it is not known.
        files: ledger, path in the run folder -> sha256, of what later stages read.
        completed: stage -> keys of the work that is done, such as `<prompt set>/<sampling hash>`.
    """

    run: str
    method: str
    model: str
    seed: int | None
    config_hash: str
    recipe_hash: str
    fingerprints: dict[str, str] = field(default_factory=dict)
    start_weights: dict[str, str] = field(default_factory=dict)
    package_versions: dict[str, str] = field(default_factory=dict)
    commit: str | None = None
    devices: list[str] = field(default_factory=list)
    trained_on: list[str] = field(default_factory=list)
    trained_prompt_sets: list[str] = field(default_factory=list)
    calibration: dict[str, dict[str, Any]] = field(default_factory=dict)
    selected_step: int | None = None
    selected_by: list[str] = field(default_factory=list)
    weights_kind: Literal["raw", "ema"] = "raw"
    weight_distance: float | None = None
    budget: Budget = Budget()
    files: dict[str, str] = field(default_factory=dict)
    completed: dict[str, list[str]] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read `manifest.json`.

        Raises:
            ResultsError: when it is absent, unreadable, or of another schema version.
        """
        try:
            values = json.loads(Path(path).read_bytes())
        except FileNotFoundError:
            raise ResultsError(f"{path} is missing; {path.parent} is not a run folder") from None
        except json.JSONDecodeError as error:
            raise ResultsError(f"{path} is not JSON ({error}); restore it or delete the run folder") from None
        found = values.get("schema_version") if isinstance(values, dict) else None
        if found != SCHEMA_VERSION:
            raise ResultsError(
                f"{path} has schema version {found}, expected {SCHEMA_VERSION}; "
                "use the alignbench that wrote it, or another results folder"
            )
        names = {entry.name for entry in fields(cls)}
        if unknown := sorted(set(values) - names):
            raise ResultsError(f"{path} has unknown entries {unknown}; expected {sorted(names)}")
        needed = names - {"calibration", "selected_by", "weight_distance"}  # younger than the others
        if missing := sorted(needed - set(values)):
            raise ResultsError(f"{path} lacks the entries {missing}; delete the run folder or restore the file")
        return cls(**{**values, "budget": Budget(**values["budget"])})


# What generation and scoring leave


@dataclass(frozen=True)
class PromptRecord:
    """One prompt of an image folder: its text as in the source, its style or category names, its image files."""

    prompt_id: str
    prompt: str
    groups: tuple[str, ...]
    images: tuple[str, ...]


@dataclass(frozen=True)
class SamplingRecord:
    """How the images of a folder were made.

    Attributes:
        noise: `per_prompt`, or `constant` where every prompt starts from the same noise.
        seed: sampling seed, not the training seed.
        full_size: number of prompts of the whole prompt set.
        subset: whether fewer were used.
        base_bits: bits that the linear layers of the denoiser were held in; None as they were loaded.
        scheduler: that of diffusers which sampled; None for the model's own.
        negative_prompt: what guidance led away from; None for no prompt.
        true_cfg_scale: classifier-free guidance beside that which was distilled into the network.
        resolution: sides in pixels where they are not the model's own.
        control: the ControlNet that was followed and a fingerprint of its maps; None where there was none.
    """

    prompt_set: str
    num_inference_steps: int
    guidance_scale: float | None
    noise: str
    seed: int
    num_images_per_prompt: int
    full_size: int
    subset: bool
    base_bits: int | None = None
    scheduler: str | None = None
    negative_prompt: str | None = None
    true_cfg_scale: float | None = None
    resolution: int | None = None
    control: dict[str, Any] | None = None


def image_name(prompt_id: str, number: int) -> str:
    """Return the file name of one image; ids must be safe as file names on any system."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", prompt_id):
        raise ResultsError(f"prompt id {prompt_id!r} is not path-safe; expected letters, digits, '_', '.' and '-'")
    return f"{prompt_id}-{number}.png"


@dataclass(frozen=True)
class ImageSet:
    """Images that are to be scored, and where a run keeps their scores.

    Attributes:
        records: their prompts and files, named within the run's image folder or by absolute paths.
        size: width and height that all of them have to have; None where they may differ.
        generated: whether this program made them and can make them again.
    """

    prompt_set: str
    sampling_hash: str
    records: Sequence[PromptRecord]
    size: tuple[int, int] | None
    generated: bool


def write_prompts(folder: Path, prompts: Iterable[PromptRecord]) -> None:
    """Write `prompts.jsonl` of an image folder, in the given order."""
    write_json_lines(Path(folder) / "prompts.jsonl", map(asdict, prompts))


def read_prompts(folder: Path) -> list[PromptRecord]:
    """Read `prompts.jsonl` of an image folder."""
    records = read_json_lines(Path(folder) / "prompts.jsonl")
    return [PromptRecord(r["prompt_id"], r["prompt"], tuple(r["groups"]), tuple(r["images"])) for r in records]


def write_sampling(folder: Path, sampling: SamplingRecord) -> None:
    """Write `sampling.json` of an image folder; what has a default is left out where it has it."""
    optional = {entry.name: entry.default for entry in fields(SamplingRecord) if entry.default is not MISSING}
    values = {k: v for k, v in asdict(sampling).items() if k not in optional or v != optional[k]}
    write_json(Path(folder) / "sampling.json", values)


def read_sampling(folder: Path) -> SamplingRecord:
    """Read `sampling.json` of an image folder."""
    return SamplingRecord(**json.loads((Path(folder) / "sampling.json").read_bytes()))


# The folder


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
    def validation_looks(self) -> list[Path]:
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
