"""What lies in the folder of a trained judge: its tensors, what it is, and how it did on pairs it never saw."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import save_file
from torch import Tensor

from alignbench.errors import UserError
from alignbench.evaluator import CalibrationImages, Evaluator
from alignbench.files import (
    CHECK,
    file_digest,
    is_intact,
    replacing_folder,
    sha256,
    with_check,
    without_check,
    write_json,
)
from alignbench.former_names import with_present_names
from alignbench.models.weights.state_dicts import load_tensors, safetensors_header
from alignbench.reading import check_record, read_json
from alignbench.reward_model import RewardModel

FORMAT = 1
TRAIN_AGAIN = "restore the file, or train the judge again"
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
PICTURE = "reliability.png"
LOG = "train.jsonl"
TRAINING_DATA = "training_data.npy"  # digests of what it learned from, see alignbench.store.training_data
RANGE = "training_features.safetensors"  # where the features of its training images lie
DISTANCE = "_distance"  # at the end of the name of the evaluator that measures how far images are from these


@dataclass(frozen=True)
class RewardModelRecord:
    """`config.json` of a trained judge.

    Attributes:
        name: of the evaluator that it is; its scores are kept under it.
        judge: `kind` and what else rebuilds the network, see `RewardModel.description`.
        start: the evaluator whose network training started from: its name, version, digest of its weights, and `node`,
            the arguments that it was built with. Its class is named by `kind`; in judges of version 0.1.0 by a
            `_target_`, which is looked up and never imported.
        calibrated_on: see `Evaluator`.
        judged_by: names of the evaluators whose judgements it learned from.
        data: name, configuration and fingerprint of the pairs, and how many were used for what.
        figures: how it does on held-out pairs; see `alignbench.train_reward.measure`.
        training: seed, updates, the update whose weights these are, seconds, processes.
        config: the whole configuration.
        package_versions, commit: of the program.
        files: sha256 of each other file of the folder, by name; none in those of version 0.1.0.
    """

    name: str
    judge: dict[str, Any]
    start: dict[str, Any]
    calibrated_on: CalibrationImages
    judged_by: list[str]
    data: dict[str, Any]
    figures: dict[str, Any]
    training: dict[str, Any]
    config: dict[str, Any]
    package_versions: dict[str, str]
    commit: str | None
    format: int = FORMAT
    files: dict[str, str] = field(default_factory=dict, compare=False)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the record of a folder; the tensors are not read.

        Raises:
            UserError: it holds no judge, or one of another version of this program.
        """
        folder = Path(folder)
        for file in (CONFIG, WEIGHTS):
            if not (folder / file).is_file():
                raise UserError(
                    f"{folder} lacks {file}; expected a folder that `python -m alignbench.train_reward` wrote, as in "
                    "results/judges/NAME"
                )
        values = read_json(folder / CONFIG, TRAIN_AGAIN)
        names = {entry.name for entry in fields(cls)}
        if not isinstance(values, dict) or values.get("format") != FORMAT or {*values, "files"} - {CHECK} != names:
            raise UserError(
                f"{folder / CONFIG} describes no judge of format {FORMAT}; give a folder that this version of "
                "`python -m alignbench.train_reward` wrote"
            )
        if not is_intact(values):
            raise UserError(f"{folder / CONFIG} has changed since it was written; {TRAIN_AGAIN}")
        values = without_check(values)
        check_record(cls, values, str(folder / CONFIG), TRAIN_AGAIN)
        record = cls(**with_present_names(values))
        for name, digest in record.files.items():
            if Path(name).name != name or not (folder / name).is_file() or file_digest(folder / name) != digest:
                raise UserError(f"{folder / name} has changed since it was written; put it back, or train again")
        return record

    def check_start(self, start: Evaluator) -> None:
        """Make sure that an evaluator that the judge builds upon is the one that it was trained with.

        Raises:
            UserError: its weights are others.
        """
        found = {"evaluator": start.name, "version": start.version, "weights": start.weights}
        if different := [key for key, value in found.items() if self.start[key] != value]:
            raise UserError(
                f"judge {self.name} was trained upon {self.start['evaluator']}@{self.start['version']}, and what is "
                f"there now has another {' and '.join(different)}; give the place of the right weights as source"
            )


def write_reward_model(
    folder: Path, reward_model: RewardModel, record: RewardModelRecord, files: Mapping[str, bytes]
) -> None:
    """Write a trained judge; the folder is there whole or not at all.

    Args:
        files: contents of what else goes there, by name.
    """
    with replacing_folder(folder) as unfinished:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in reward_model.kept_state().items()}
        save_file(tensors, unfinished / WEIGHTS)
        reward_model.save_parts(unfinished)
        for name, content in files.items():
            (unfinished / name).write_bytes(content)
        digests = {file.name: sha256(file) for file in sorted(unfinished.iterdir())}
        write_json(unfinished / CONFIG, with_check(asdict(replace(record, files=digests))))


def read_tensors(folder: Path) -> Mapping[str, Any]:
    """Return the tensors of a trained judge."""
    return load_tensors(Path(folder) / WEIGHTS)


def tensor_bytes(folder: Path) -> int:
    """Return how many bytes the tensors of a trained judge take; they are not read."""
    header = safetensors_header(Path(folder) / WEIGHTS)
    ends = [entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"]
    return sum(end - start for start, end in ends)


def weights_digest(folder: Path) -> str:
    """Return the digest of the tensors of a trained judge."""
    return file_digest(Path(folder) / WEIGHTS)


@dataclass(frozen=True)
class FeatureRange:
    """Where the features of a judge's training images lie.

    Attributes:
        mean, std: of each feature over the training images, [D]; tokens are averaged first.
        limit: distance that 1 % of the images of other pairs exceed, [].
    """

    mean: Tensor
    std: Tensor
    limit: Tensor

    @classmethod
    def of(cls, trained: Tensor, others: Tensor) -> Self:
        """Measure it by the pooled features of training images, [N, D], and of images of other pairs, [M, D]."""
        unscaled = cls(trained.mean(dim=0), trained.std(dim=0).clamp(min=1e-6), torch.ones(()))
        return cls(unscaled.mean, unscaled.std, unscaled.distance(others).quantile(0.99))

    def distance(self, features: Tensor) -> Tensor:
        """Return how far images are, [N], float32, by their features, [N, D] or [N, T, D]; 1 is the limit."""
        pooled_features = pooled(features).float()
        far = (pooled_features - self.mean.to(features.device)) / self.std.to(features.device)
        return far.square().mean(dim=-1).sqrt() / self.limit.to(features.device)

    def tensors(self) -> dict[str, Tensor]:
        """Return what is kept of it."""
        return {"mean": self.mean, "std": self.std, "limit": self.limit}


def pooled(features: Tensor) -> Tensor:
    """Return one vector an image, [N, D], of features [N, D] or tokens [N, T, D]."""
    return features if features.ndim == 2 else features.mean(dim=1)


def read_range(folder: Path) -> FeatureRange | None:
    """Return where the features of a judge's training images lie; None for a judge of version 0.1.0."""
    file = Path(folder) / RANGE
    return FeatureRange(**load_tensors(file)) if file.exists() else None
