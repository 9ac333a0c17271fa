"""Which images and data sets a training has learned from: a set of digests beside the weights, to be compared.

A reward model that learned from the data of a method is no held-out evaluator of it: both have seen the same images and
the same preferences. Runs and reward models therefore note the images that they were trained on. Version 0.1.0 noted
only the fingerprint of the data set.
"""

import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from alignbench.errors import UserError
from alignbench.files import is_intact, write_bytes
from alignbench.reading import read_array, read_json_object
from alignbench.store.reward_model_folder import CONFIG, TRAIN_AGAIN, TRAINING_DATA
from alignbench.store.run_folder import RunFolder, checked

NOTHING = np.zeros(0, np.uint64)


class Learned(Protocol):
    """Whoever has a name in tables and learned from data, such as an `Evaluator`."""

    @property
    def name(self) -> str: ...

    @property
    def training_data(self) -> np.ndarray:
        """See `digests`."""
        ...


@dataclass(frozen=True)
class RewardModelData:
    """The name of a reward model and what it learned from; nothing else of it is read."""

    name: str
    training_data: np.ndarray


def digests(names: Iterable[str]) -> np.ndarray:
    """Return the digests of images and data sets, given names that are unique over all data: sorted, [N], uint64."""
    found = {int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") for name in names}
    return np.array(sorted(found), np.uint64)


def union(parts: Iterable[np.ndarray]) -> np.ndarray:
    """Return all digests of several trainings."""
    return np.unique(np.concatenate([NOTHING, *parts]))


def share_data(one: np.ndarray, other: np.ndarray) -> bool:
    """Say whether two trainings have an image or a data set in common."""
    return bool(np.intersect1d(one, other, assume_unique=True).size)


def encoded(found: np.ndarray) -> bytes:
    """Return the content of the file that keeps digests."""
    file = io.BytesIO()
    np.save(file, found)
    return file.getvalue()


def write_training_data(folder: RunFolder, found: np.ndarray) -> None:
    """Note the digests of what a run learned from."""
    folder.store(folder.path / TRAINING_DATA, lambda file: write_bytes(file, encoded(found)))


def read_digests(file: Path) -> np.ndarray:
    """Return the digests in a file, [N], uint64.

    Raises:
        UserError: the file holds something else.
    """
    return read_array(file, np.uint64)


def data_of_run(folder: RunFolder) -> np.ndarray:
    """Return the digests of what a run learned from; of a run of version 0.1.0 those of its data sets alone."""
    file = folder.path / TRAINING_DATA
    return read_digests(checked(file)) if file.exists() else digests(folder.manifest.fingerprints.values())


def data_of_reward_model(folder: Path, fingerprint: str) -> np.ndarray:
    """Return the digests of what a reward model learned from; of one of version 0.1.0 that of its data set alone.

    Args:
        fingerprint: of its data set, as its record has it.
    """
    file = Path(folder) / TRAINING_DATA
    return read_digests(file) if file.exists() else digests([fingerprint])


def readable_reward_models(root: Path, left_out: dict[Path, str] | None = None) -> list[RewardModelData]:
    """Return the reward models under a results root, but for those that are damaged.

    Args:
        left_out: receives a sentence about each damaged one, by its folder.
    """
    found = []
    for file in sorted(Path(root).glob(f"judges/*/{CONFIG}")):
        try:
            found.append(read_reward_model_data(file.parent))
        except UserError as error:
            if left_out is not None:
                left_out[file.parent] = str(error)
    return found


def read_reward_model_data(folder: Path) -> RewardModelData:
    """Return the name of a reward model and what it learned from.

    Raises:
        UserError: its record is damaged.
    """
    record = read_json_object(folder / CONFIG, TRAIN_AGAIN)
    name, data = record.get("name"), record.get("data")
    fingerprint = data.get("fingerprint") if isinstance(data, dict) else None
    if not (is_intact(record) and isinstance(name, str) and isinstance(fingerprint, str)):
        raise UserError(f"{folder / CONFIG} has changed since it was written; {TRAIN_AGAIN}")
    return RewardModelData(name, data_of_reward_model(folder, fingerprint))


def note_shared_data(folder: RunFolder, evaluators: Iterable[Learned]) -> None:
    """Add to `trained_on` of a run the evaluators that learned from data of its training."""
    manifest, own = folder.manifest, data_of_run(folder)
    sharing = {one.name for one in evaluators if share_data(own, one.training_data)}
    if new := sorted(sharing - set(manifest.trained_on)):
        folder.update(trained_on=[*manifest.trained_on, *new])
