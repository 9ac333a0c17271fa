"""A network in a folder or on the hub: where its files are, on which device it is, and whether it is loaded."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from huggingface_hub import snapshot_download

from alignbench.files import quick_sha256
from alignbench.models.weights.missing import going_on
from evaluators.networks.checkpoint import check_checkpoint

Precision = Literal["bfloat16", "float32"]

CONFIG_FILE = "config.json"


class ModelFolder(ABC):
    """A network and its files.

    Args:
        source: hub id, or a folder with config.json and weights.
        revision: of the hub's repository.
        precision: in which numbers the network computes.

    Raises:
        UserError: the source is not there, or is another model.
    """

    fetched: ClassVar[Sequence[str]]  # patterns of the files of a repository on the hub that are read

    def __init__(self, source: str, revision: str | None, precision: Precision) -> None:
        check_checkpoint(source, CONFIG_FILE, revision)
        if (Path(source) / CONFIG_FILE).is_file():
            with going_on():
                self.check_folder(Path(source))
        self.source, self.revision, self.precision = source, revision, precision
        self._device = torch.device("cpu")

    @staticmethod
    @abstractmethod
    def check_folder(folder: Path) -> None:
        """Refuse a folder of another model within seconds.

        Raises:
            UserError: naming what it is.
        """

    @abstractmethod
    def load(self) -> Any:
        """Return the network, frozen, on the CPU."""

    @cached_property
    def folder(self) -> Path:
        """The model on the disk, fetched from the hub if it is not here."""
        if Path(self.source).is_dir():
            return Path(self.source)
        folder = Path(snapshot_download(self.source, revision=self.revision, allow_patterns=list(self.fetched)))
        self.check_folder(folder)
        return folder

    @property
    def weights(self) -> str:
        """Digest of all files of the model."""
        return quick_sha256(self.folder)

    @cached_property
    def network(self) -> Any:
        """The network, frozen, on the device.

        Raises:
            UserError: it is another model, or a file is damaged.
        """
        with torch.inference_mode(False):  # who asks first may need no gradient, and a later one may
            return self.load().to(self._device)

    def to(self, device: torch.device | str) -> None:
        """Say where the network is to compute."""
        self._device = torch.device(device)
        if "network" in vars(self):
            self.network.to(self._device)

    def release(self) -> None:
        """Forget the network; it is read again when it is next used."""
        vars(self).pop("network", None)
