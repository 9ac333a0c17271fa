"""What a later stage or reader must know of a run: its manifest, kept in `manifest.json`."""

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self

from alignbench.errors import UserError
from alignbench.files import CHECK, is_intact, with_check, without_check, write_json
from alignbench.reading import check_record, read_json

SCHEMA_VERSION = 1
RESTORE = "restore it or delete the run folder"
# entries that may be absent
YOUNGER = {
    "calibration", "cut_prompts", "selected_by", "weight_distance", "display_name", "start_run", "image_costs",
    "started", "command",
}  # fmt: skip
DATA = "data"  # the method of real images, which no model made
BASE = "base"  # the method of the untouched model, which all others are compared with


class ResultsError(UserError):
    """A results folder that cannot be used as asked; the message is one sentence for the user."""


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
        display_name: how tables call the run; None for its method.
        seed: training seed; None for the untouched model.
        started: when the folder was begun, UTC, as in `2026-01-31 18:05`; None where it is not known.
        command: the command that began it; None where it was no command, or is not known.
        config_hash: of all that changes the weights, the seed included.
        recipe_hash: the same without the seed; runs that share it are repetitions of each other.
        fingerprints: of the data and prompts that were trained on, by name.
        start_weights: what training started from, with its revision or sha256.
        start_run: name of the run that measures `model.policy`, what training started from; None where it started from
            the untouched model. Tables compare the run with that one, too.
        trained_on: names of the evaluators whose score or labels the training saw.
        trained_prompt_sets: names of the prompt sets of which the training saw prompts.
        cut_prompts: prompts that are longer than the text encoders read, by prompt set or data and by the kind of the
            tokenizer; see `alignbench.models.prompt_length.CutPrompts`.
        calibration: what the calibration of the evaluators came to, by `<evaluator>@<version>`; see
            `alignbench.scoring.calibration`.
        selected_step: the optimizer step whose weights `policy/` holds.
        selected_by: names of the evaluators whose scores on other prompts chose that step; none where it is the last.
        weights_kind: whether those are the raw weights or their moving average.
        weight_distance: how far they are from the start: norm of the change over that of the start, all weights of the
            denoiser together, adapters as what they add; None where it is not known.
        image_costs: what an image cost, by `<prompt set>/<sampling hash>`: `network_passes` through the denoiser, and
            `seconds`, the mean over the images that one command made last in its main process.
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
    display_name: str | None = None
    started: str | None = None
    command: str | None = None
    start_run: str | None = None
    package_versions: dict[str, str] = field(default_factory=dict)
    commit: str | None = None
    devices: list[str] = field(default_factory=list)
    trained_on: list[str] = field(default_factory=list)
    trained_prompt_sets: list[str] = field(default_factory=list)
    cut_prompts: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    calibration: dict[str, dict[str, Any]] = field(default_factory=dict)
    selected_step: int | None = None
    selected_by: list[str] = field(default_factory=list)
    weights_kind: Literal["raw", "ema"] = "raw"
    weight_distance: float | None = None
    budget: Budget = Budget()
    image_costs: dict[str, dict[str, float]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    completed: dict[str, list[str]] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read `manifest.json`.

        Raises:
            UserError: when it is absent, damaged, or of another schema version.
        """
        if not Path(path).exists():
            raise ResultsError(f"{path} is missing; {path.parent} is not a run folder")
        values = read_json(path, RESTORE)
        found = values.get("schema_version") if isinstance(values, dict) else None
        if found != SCHEMA_VERSION:
            raise ResultsError(
                f"{path} has schema version {found}, expected {SCHEMA_VERSION}; "
                "use the alignbench that wrote it, or another results folder"
            )
        names = {entry.name for entry in fields(cls)}
        if unknown := sorted(set(values) - names - {CHECK}):
            raise ResultsError(f"{path} has unknown entries {unknown}; expected {sorted(names)}")
        needed = names - YOUNGER
        if missing := sorted(needed - set(values)):
            raise ResultsError(f"{path} lacks the entries {missing}; delete the run folder or restore the file")
        if not is_intact(values):
            raise ResultsError(f"{path} has changed since it was written; {RESTORE}")
        values = without_check(values)
        check_record(cls, values, str(path), RESTORE)
        return cls(**{**values, "budget": Budget(**values["budget"])})

    def write(self, path: Path) -> None:
        """Write `manifest.json` atomically, with a digest of itself."""
        write_json(path, with_check(asdict(self)))
