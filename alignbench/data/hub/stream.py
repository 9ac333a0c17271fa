"""Rows of a data set of the hub, one after the other, through `datasets`, which runs no code of a data set.

Images stay encoded: they are the bytes that the data set has.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from alignbench.data.hub.columns import IMAGES
from alignbench.errors import UserError, did_you_mean
from alignbench.models.weights.hub import TIMEOUT_SECONDS, hub_answer

if TYPE_CHECKING:
    from datasets import IterableDataset

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
COMMIT = re.compile(r"[0-9a-f]{40}")

T = TypeVar("T")


def find_commit(path: str, revision: str | None) -> str:
    """Return the commit of a revision of a data set of the hub; a commit is returned without asking the hub.

    Raises:
        UserError: there is no such data set or revision, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi

    if revision is not None and COMMIT.fullmatch(revision):
        return revision
    commit = hub_answer(
        lambda: HfApi().dataset_info(path, revision=revision, timeout=TIMEOUT_SECONDS).sha,
        f"datasets/{path}",
        revision,
        named=f"data.path={path}",
        expected="another folder in the hub's layout",
        download=f"{path} --repo-type dataset --local-dir FOLDER",
        kind="data set",
    )
    assert commit is not None  # of a repository that exists
    return commit


@dataclass(frozen=True)
class Split:
    """One published split of a data set.

    Attributes:
        path: a hub id, or a folder.
        config_name: configuration of the data set; None for its default or only one.
        part: name of the split.
        commit: of a hub id; None for a folder.
    """

    path: str
    config_name: str | None
    part: str
    commit: str | None

    def open(self) -> "IterableDataset":
        """Return the split as a stream.

        Raises:
            UserError: the data set, its configuration or the split does not exist or cannot be read.
        """
        from datasets import get_dataset_config_names, get_dataset_default_config_name, load_dataset

        name = self.config_name
        # an absolute path, so that a folder is never looked for on the hub
        where: Any = {"path": self.path if self.commit else str(Path(self.path).resolve()), "revision": self.commit}
        known = self._ask(lambda: get_dataset_config_names(**where))
        if name is not None and name not in known:
            raise UserError(f"data.config_name={name} is no configuration of {self.path};{did_you_mean(name, known)}")
        if name is None and len(known) > 1 and self._ask(lambda: get_dataset_default_config_name(**where)) is None:
            raise UserError(f"{self.path} has several configurations; add data.config_name= and one of {known}")
        splits = self._ask(lambda: load_dataset(**where, name=name, streaming=True))
        if self.part not in splits:
            raise UserError(
                f"data.part={self.part} is no split of {self.path};{did_you_mean(self.part, [*map(str, splits)])}"
            )
        return splits[self.part]

    def _ask(self, question: Callable[[], T]) -> T:
        from datasets.exceptions import DatasetsError

        try:
            return question()
        except RuntimeError as error:
            raise UserError(
                f"data.path={self.path} can only be read by a program that comes with it, and none is run here "
                f"({_one_line(error)}); give a data set of Parquet files or images"
            ) from None
        except (DatasetsError, ValueError, OSError) as error:
            raise UserError(f"data.path={self.path} cannot be read: {_one_line(error)}") from None

    def holds(self, file: str) -> bool:
        """Say whether a file belongs to the data set, given its path or address as `datasets` writes them.

        A cell of a table may name any file of this machine or address of its network.
        """
        outermost = file.rpartition("::")[2]  # of `zip://a.png::hf://datasets/owner/name@main/images.zip`
        if self.commit is not None:
            return outermost.startswith(f"hf://datasets/{self.path}@")
        return "://" not in outermost and Path(outermost).resolve().is_relative_to(Path(self.path).resolve())


class Rows:
    """The rows of a split, by role.

    Args:
        stream: the split with all its columns.
        columns: the column of each role.
        shuffle: seed, and number of rows of the buffer; None for the published order.

    Raises:
        UserError: a column of images holds something else.
    """

    def __init__(
        self, split: Split, stream: "IterableDataset", columns: Mapping[str, str], shuffle: tuple[int, int] | None
    ) -> None:
        self.split, self.columns, self.shuffle = split, columns, shuffle
        self.stream = _with_encoded_images(stream.select_columns(sorted(set(columns.values()))), columns, split.path)
        if shuffle is not None:
            seed, buffer_size = shuffle
            # rows of one file at a time fill the buffer: several would be read by threads, which take seconds to end
            self.stream = self.stream.shuffle(seed=seed, buffer_size=buffer_size, max_buffer_input_shards=1)

    @property
    def state(self) -> dict[str, Any] | None:
        """Where the stream is, as JSON; None if it is shuffled, since the state would not hold the buffer."""
        return self.stream.state_dict() if self.shuffle is None else None

    def after(self, number: int, state: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
        """Yield the rows behind the first `number`.

        Images are bytes, None where there is none; a list of images is a list of these.

        Args:
            state: that of the stream after those rows. Without it they are read again.

        Raises:
            UserError: a file is damaged, or the connection is lost.
        """
        import pyarrow
        from huggingface_hub import errors

        stream = self.stream
        if state is not None:
            stream.load_state_dict(state)
        elif number:
            stream = stream.skip(number)
        failures = (OSError, pyarrow.ArrowException, errors.HTTPError)  # pyright: ignore[reportPrivateImportUsage]
        try:
            for row in stream:
                yield {
                    role: self._content(row[column], column) if role in IMAGES else row[column]
                    for role, column in self.columns.items()
                }
                number += 1
        except failures as error:
            raise UserError(
                f"row {number + 1} of {self.split.path} cannot be read: {_one_line(error)}; the same command "
                "continues behind the rows that are stored already"
            ) from None

    def _content(self, value: Any, column: str) -> Any:
        import fsspec

        if isinstance(value, list):
            return [self._content(one, column) for one in value]
        if isinstance(value, dict) and "bytes" in value:
            if value["bytes"] is not None or value.get("path") is None:
                return value["bytes"]
            if not self.split.holds(value["path"]):
                return None
            with fsspec.open(value["path"], "rb") as file:
                return file.read()  # pyright: ignore[reportAttributeAccessIssue]
        if value is not None and not isinstance(value, bytes):
            raise _no_images(column, self.split.path, type(value).__name__)
        return value


def _with_encoded_images(stream: "IterableDataset", columns: Mapping[str, str], path: str) -> "IterableDataset":
    """Return the same stream, whose images are not decoded."""
    from datasets import Image, LargeList, List, Value

    for column in {column for role, column in columns.items() if role in IMAGES}:
        feature = None if stream.features is None else stream.features[column]
        if isinstance(feature, Image):
            stream = stream.cast_column(column, Image(decode=False))
        elif isinstance(feature, List | LargeList) and isinstance(feature.feature, Image):
            stream = stream.cast_column(column, type(feature)(Image(decode=False)))
        elif isinstance(feature, Value) and "binary" not in feature.dtype:
            raise _no_images(column, path, feature.dtype)
    return stream


def _no_images(column: str, path: str, kind: str) -> UserError:
    return UserError(
        f"column {column} of {path} holds no images but values of type {kind}; images at other addresses are not "
        "fetched: give another column, or a data set that holds its images"
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
