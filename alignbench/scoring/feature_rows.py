"""The feature vectors of a run's images: computed once for each image file, and kept beside the run's scores.

They lie in a `TensorStore`, by the digest of the file. So an image that was made again has new ones, and an image that
is gone keeps its own.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Self

import numpy as np
import torch

from alignbench.data.storage.tensor_store import TensorStore, key_of
from alignbench.errors import UserError
from alignbench.evaluator import Features
from alignbench.files import is_intact, locked, with_check, without_check, write_json
from alignbench.reading import check_record, read_json_object
from alignbench.scoring.network_pool import NetworkPool
from alignbench.scoring.preparation import (
    ImageToScore,
    Passes,
    Prepared,
    default_num_threads,
    digests_of,
    images_to_score,
)
from alignbench.store.image_records import ImageSet
from alignbench.store.manifest import ResultsError
from alignbench.store.run_folder import RunFolder
from alignbench.work_share import WorkShare

INFO = "features.json"


@dataclass(frozen=True)
class FeatureInfo:
    """What decides a vector besides the image; vectors that differ here never meet."""

    name: str
    version: str
    preprocess: str
    precision: str
    weights: str

    @classmethod
    def of(cls, features: Features) -> Self:
        return cls(features.name, features.version, features.preprocess.key, features.precision, features.weights)


class FeatureRows:
    """The vectors that one kind of features made of a run's images.

    Args:
        folder: where they lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._store = TensorStore(folder)

    @classmethod
    def open(cls, run: RunFolder, info: FeatureInfo) -> Self:
        """Return the vectors of these features, none at first.

        Raises:
            UserError: those that are there were made in another way.
        """
        rows = cls(run.features / f"{info.name}@{info.version}")
        with locked(rows.folder / ".lock"):
            if not (rows.folder / INFO).exists():
                write_json(rows.folder / INFO, with_check(asdict(info)))
        if rows.info != info:
            raise UserError(
                f"{rows.folder} holds features of {rows.info}, expected {info}; delete it to compute them again"
            )
        return rows

    @property
    def info(self) -> FeatureInfo:
        """How the vectors were made.

        Raises:
            ResultsError: the file that says it is damaged.
        """
        file, remedy = self.folder / INFO, f"delete {self.folder} and score again"
        found = read_json_object(file, remedy)
        if not is_intact(found):
            raise ResultsError(f"{file} has changed since it was written; {remedy}")
        check_record(FeatureInfo, without_check(found), str(file), remedy)
        return FeatureInfo(**without_check(found))

    def __contains__(self, digest: str) -> bool:
        return key_of(digest) in self._store

    def read(self, digests: Sequence[str]) -> list[np.ndarray | None]:
        """Return the vector of each image file, [D], float32; None where there is none."""
        found = self._store.read([key_of(digest) for digest in digests])
        return [None if entry is None or "row" not in entry else entry["row"].numpy() for entry in found]

    def add(self, rows: Mapping[str, torch.Tensor]) -> None:
        """Keep vectors, [D], by the digest of their image file."""
        self._store.add({key_of(digest): {"row": row} for digest, row in rows.items()})


def feature_rows(run: RunFolder) -> list[FeatureRows]:
    """Return what there is of features of a run's images, by name."""
    return [FeatureRows(file.parent) for file in sorted(run.features.glob(f"*/{INFO}"))]


@torch.no_grad()
def add_features(
    folder: RunFolder,
    images: ImageSet,
    features: Sequence[Features],
    batch_size: int,
    network_pool: NetworkPool | None = None,
    work_share: WorkShare | None = None,
    progress: bool = True,
) -> None:
    """Compute the vectors of the images that have none yet, as far as they are there.

    Images are decoded once, for all features. A kill loses at most a chunk.

    Args:
        batch_size: images that go through a network at once.
        network_pool: the networks on the device that is computed on; the CPU by default.
        work_share: which part falls to this process.

    Raises:
        UserError: vectors of the same name were made in another way.
    """
    work_share, network_pool = work_share or WorkShare(), network_pool or NetworkPool(torch.device("cpu"))
    batches = work_share.batches(images_to_score(folder, images), batch_size)
    digests = digests_of([*chain.from_iterable(work_share.share(batches))])
    tables = {one: FeatureRows.open(folder, FeatureInfo.of(one)) for one in features}
    todo = {one: _lacking(digests, rows) for one, rows in tables.items()}
    pictures = [picture for picture in digests if any(picture in lacking for lacking in todo.values())]
    preprocesses = list(dict.fromkeys(one.preprocess for one in features))
    num_threads = default_num_threads(work_share.num_processes)
    is_shown = progress and work_share.is_main
    title = f"features {folder.short_name}"
    going = Passes(title, features, pictures, preprocesses, images, batch_size, num_threads, is_shown)
    with closing(going.steps()) as steps:
        for one, chunk in steps:
            network_pool.use(one)
            found: dict[str, torch.Tensor] = {}
            for batch in chunk:
                found |= _rows(one, batch.where([picture in todo[one] for picture in batch.pictures]))
            if found:
                tables[one].add(found)


def _lacking(digests: Mapping[ImageToScore, str | None], rows: FeatureRows) -> set[ImageToScore]:
    return {picture for picture, digest in digests.items() if digest is not None and digest not in rows}


def _rows(features: Features, batch: Prepared) -> dict[str, torch.Tensor]:
    if not batch.pictures:
        return {}
    return dict(zip(batch.digests, features.rows(batch.inputs[features.preprocess]).float().cpu(), strict=True))
