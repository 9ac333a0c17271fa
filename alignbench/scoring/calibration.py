"""Does an evaluator still score as it did, and as it should? Asked before it scores anything else.

A few shipped images are scored. Every score must be finite and within the evaluator's range; an evaluator that reads
prompts must prefer each image's own prompt to those of the others, which random, damaged or wrongly mapped weights do
not; and the scores must be those that are stored for these weights: in the package where it has them, and in the
results folder from its first calibration on. So one results folder never mixes weights, preprocessing, precisions or
libraries that score differently.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from alignbench.errors import UserError
from alignbench.evaluator import Evaluator
from alignbench.files import is_intact, locked, with_check, without_check, write_json
from alignbench.images import opened
from alignbench.reading import check_record, read_json_object
from alignbench.scoring.network_pool import NetworkPool
from alignbench.scoring.score import info
from alignbench.store.scores import ScoreInfo

IMAGES = Path(__file__).with_name("calibration_images")
STORED = Path(__file__).with_name("calibration_values.json")
RECORD = "calibration.json"  # in the results folder
REMEDY = "put the right file back, or delete it to calibrate all evaluators again"
PACKAGES = ("torch", "transformers", "open_clip_torch", "pillow")  # that could move a score

# Largest difference that means nothing, in displayed units: of cosines shown times 100, and of other scores.
SAME_PRECISION = (0.002, 0.0005)  # another machine or another version of a library
OTHER_PRECISION = (0.02, 0.005)  # bfloat16 or float16 against float32

Outcome = Literal["as stored", "as before", "first values"]


@dataclass(frozen=True)
class Calibration:
    """What came of it.

    Attributes:
        outcome: as the values stored in the package; as at the first calibration in this results folder; or there was
            nothing to compare with, and the values are kept.
        largest_difference: to what it was compared with, in displayed units.
        values: score of each image with its own prompt, in the evaluator's own scale.
        known: whether this was found before, by the same libraries.
    """

    outcome: Outcome
    largest_difference: float | None
    values: list[float]
    known: bool = False


@dataclass(frozen=True)
class _Entry:
    """What the record of a results folder keeps of an evaluator."""

    info: dict[str, Any]
    libraries: dict[str, str]
    outcome: Outcome
    largest_difference: float | None
    values: list[float]


def calibrate(
    evaluators: Sequence[Evaluator], root: Path, network_pool: NetworkPool, write: bool = True
) -> dict[str, Calibration]:
    """Calibrate evaluators; those that were calibrated here before by the same libraries are not run again.

    Args:
        root: results folder, which keeps the values.
        write: False on all processes but one.

    Returns:
        What came of it, by `<evaluator>@<version>`.

    Raises:
        UserError: an evaluator does not score as it should, or as it did.
    """
    done: dict[str, Calibration] = {}
    record = Path(root) / RECORD
    here = {"device": network_pool.device.type, **{name: version(name) for name in PACKAGES}}
    for evaluator in evaluators:
        key, how = f"{evaluator.name}@{evaluator.version}", info(evaluator).record()
        before = read_entry(record, key)
        if before is not None and before["info"] != how:
            different = [name for name in how if before["info"].get(name) != how[name]]
            raise UserError(
                f"{record} says that {key} scored with another {' and '.join(different)} in this results folder; "
                "scores made in two ways are not comparable: use another results folder"
            )
        if before is not None and before["libraries"] == here:
            done[key] = Calibration(before["outcome"], before["largest_difference"], before["values"], known=True)
            continue
        network_pool.use(evaluator)
        done[key] = found = compare(evaluator, before["values"] if before is not None else None)
        if write:
            with locked(record.with_name(f".{RECORD}.lock")):
                entry = {name: value for name, value in asdict(found).items() if name != "known"}
                if before is not None:  # the first values stay: each could differ a little more than the one before
                    entry["values"] = before["values"]
                entry = with_check({"info": how, "libraries": here, **entry})
                write_json(record, with_check(read_values(record) | {key: entry}))
    return done


def summary(found: Mapping[str, Calibration]) -> str:
    """Say what came of the calibrations that were run now; nothing where all were known.

    Args:
        found: by `<evaluator>@<version>`, as `calibrate` returns them.
    """
    now = {key: one.outcome for key, one in found.items() if not one.known}
    first = [key for key, outcome in now.items() if outcome == "first values"]
    expected = len(now) - len(first)
    parts = []
    if expected:
        parts.append(f"{expected} evaluator{'s score' if expected > 1 else ' scores'} the test images as expected")
    if first:
        parts.append(f"first scores of the test images by {', '.join(first)}, kept for comparison")
    return "; ".join(parts)


def compare(evaluator: Evaluator, before: Sequence[float] | None) -> Calibration:
    """Score the shipped images and compare the scores with stored values.

    Args:
        before: scores of the same evaluator at an earlier time; None where there are none.

    Raises:
        UserError: a score is impossible, an image's own prompt does not fit it best, or scores have moved.
    """
    values = scores(evaluator)
    stored = stored_values(info(evaluator))
    for what, expected, bounds in (
        ("stored with the program", stored, SAME_PRECISION if evaluator.precision == "float32" else OTHER_PRECISION),
        ("of its first calibration in this results folder", before, SAME_PRECISION),
    ):
        if expected is not None:
            bound = allowed_difference(evaluator, bounds)
            difference = largest_difference(evaluator, values, expected)
            if difference > bound:
                raise UserError(
                    f"{evaluator.name}@{evaluator.version} differs by {difference:.4g} from the values {what}, where "
                    f"{bound:g} is allowed; its weights are damaged, or a library computes otherwise"
                )
    if stored is not None:
        return Calibration("as stored", largest_difference(evaluator, values, stored), values)
    if before is not None:
        return Calibration("as before", largest_difference(evaluator, values, before), values)
    return Calibration("first values", None, values)


def scores(evaluator: Evaluator) -> list[float]:
    """Return the scores of the images of the evaluator's world with their own prompts.

    Raises:
        UserError: a score is impossible, or an image's own prompt does not fit it best.
    """
    folder, samples = _samples(evaluator)
    prompts = [sample["prompt"] for sample in samples]
    pictures = [opened(folder / sample["file"]) for sample in samples]
    own = evaluator.score(pictures, prompts)
    low, high = evaluator.range
    if not (own.isfinite().all() and own.min() >= low and own.max() <= high):
        raise UserError(
            f"{evaluator.name}@{evaluator.version} gives scores of {own.min():.4g} to {own.max():.4g} on the images it "
            f"is calibrated with, where {low:g} to {high:g} is possible; its weights are damaged"
        )
    for row, picture in enumerate(pictures if evaluator.matches_prompts else []):
        best = int(evaluator.score([picture] * len(prompts), prompts).argmax())
        if best != row:
            raise UserError(
                f"{evaluator.name}@{evaluator.version} finds that {samples[row]['file']} shows {prompts[best]!r} "
                f"rather than {prompts[row]!r}; its weights are not the published ones, or damaged; to score with them "
                "all the same, add calibration=false"
            )
    return own.tolist()


def _samples(evaluator: Evaluator) -> tuple[Path, list[dict[str, str]]]:
    """Return the files and prompts that an evaluator is calibrated with, and the folder that the files are in."""
    if evaluator.calibration_samples is None:
        return IMAGES, json.loads((IMAGES / "samples.json").read_text())[evaluator.calibrated_on]
    return evaluator.calibration_samples.parent, json.loads(evaluator.calibration_samples.read_text())


def allowed_difference(evaluator: Evaluator, bounds: tuple[float, float] = SAME_PRECISION) -> float:
    """Return the largest difference that means nothing, in displayed units.

    Args:
        bounds: for cosines shown times 100, and for the scores of others.
    """
    if evaluator.tolerance is None and evaluator.display_scale == 100.0:
        return bounds[0]
    return evaluator.display_scale * (bounds[1] if evaluator.tolerance is None else evaluator.tolerance)


def largest_difference(evaluator: Evaluator, values: Sequence[float], expected: Sequence[float]) -> float:
    """Return the largest difference of two rows of scores, in displayed units."""
    return evaluator.display_scale * max(abs(a - b) for a, b in zip(values, expected, strict=True))


def stored_values(how: ScoreInfo) -> list[float] | None:
    """Return the float32 scores that the package stores for these weights; None where it has none."""
    key = f"{how.evaluator}@{how.version}"
    entry = read_values(STORED).get(key)
    if entry is None or (entry["weights"], entry["preprocess"]) != (how.weights, how.preprocess):
        return None
    return entry["values"]


def read_values(path: Path) -> dict[str, Any]:
    """Return stored values by `<evaluator>@<version>`; nothing where there is no file.

    Raises:
        UserError: the file is damaged.
    """
    values = read_json_object(path, REMEDY) if path.exists() else {}
    if not is_intact(values):
        raise UserError(f"{path} has changed since it was written; {REMEDY}")
    return without_check(values)


def read_entry(record: Path, key: str) -> dict[str, Any] | None:
    """Return what the record of a results folder keeps of an evaluator; None where it was not calibrated there.

    Raises:
        UserError: the record is damaged.
    """
    entry = read_values(record).get(key)
    if entry is None:
        return None
    named = f"the entry {key} of {record}"
    if not isinstance(entry, dict) or not is_intact(entry):
        raise UserError(f"{named} has changed since it was written; {REMEDY}")
    check_record(_Entry, without_check(entry), named, REMEDY)
    return entry


def store(found: Mapping[str, tuple[ScoreInfo, Calibration]]) -> None:
    """Add float32 values to those that the package stores."""
    values = {
        key: {"weights": how.weights, "preprocess": how.preprocess, "values": calibration.values}
        for key, (how, calibration) in found.items()
        if how.precision == "float32"
    }
    write_json(STORED, dict(sorted((read_values(STORED) | values).items())))
