"""What a folder says of an average of trained policies: its parents, and what they were trained on."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from alignbench.errors import UserError
from alignbench.files import write_json
from alignbench.reading import read_json_object
from alignbench.store.reward_model_folder import TRAINING_DATA
from alignbench.store.training_data import encoded, read_digests

FORMAT = 1
FILE = "soup.json"
DEPTH = 2  # SOUP/unet/FILE


@dataclass(frozen=True)
class Parent:
    """One of the averaged policies.

    Attributes:
        run: name of the run that trained or measured it.
        method: how tables call it.
        weight: its share of the average; those of all parents sum to 1.
        policy: path or hub id of its weights.
        digest: sha256 of its files; its commit where they come from the hub.
    """

    run: str
    method: str
    weight: float
    policy: str
    digest: str


@dataclass(frozen=True)
class SoupRecord:
    """`soup.json`.

    Attributes:
        parents: the averaged policies.
        trained_on: names of the evaluators that one of the parents was trained on.
        training_data: digests of what the parents learned from, [N], uint64; see `alignbench.store.training_data`.
    """

    parents: Sequence[Parent]
    trained_on: Sequence[str]
    training_data: np.ndarray

    @property
    def label(self) -> str:
        """How tables call the policy."""
        return f"soup({','.join(parent.method for parent in self.parents)})"

    def write(self, folder: Path) -> None:
        """Write the record beside the weights."""
        parents = [asdict(parent) for parent in self.parents]
        write_json(folder / FILE, {"format": FORMAT, "parents": parents, "trained_on": list(self.trained_on)})
        (folder / TRAINING_DATA).write_bytes(encoded(self.training_data))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the record of a folder. All of it is data: nothing that it names is opened.

        Raises:
            UserError: it is damaged.
        """
        file = folder / FILE
        values = read_json_object(file)
        try:
            parents = [Parent(**parent) for parent in values["parents"]]
            trained_on = values["trained_on"]
            is_whole = values["format"] == FORMAT and _are_texts(trained_on) and all(map(_is_whole, parents))
        except (KeyError, TypeError):
            is_whole = False
        if not is_whole or not parents:
            raise UserError(f"{file} is not what `python -m alignbench.soup` writes; put the right file back")
        return cls(parents, trained_on, read_digests(folder / TRAINING_DATA))


def _is_whole(parent: Parent) -> bool:
    texts = [parent.run, parent.method, parent.policy, parent.digest]
    return _are_texts(texts) and isinstance(parent.weight, float) and math.isfinite(parent.weight)


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def find_soup(path: str) -> SoupRecord | None:
    """Return the record of the soup that a policy is; None if it is none.

    Args:
        path: of the policy: its folder, or a file inside.
    """
    given = Path(path)
    if not given.exists():
        return None
    folders = (given, *given.resolve().parents[:DEPTH])
    folder = next((folder for folder in folders if (folder / FILE).is_file()), None)
    return None if folder is None else SoupRecord.read(folder)
