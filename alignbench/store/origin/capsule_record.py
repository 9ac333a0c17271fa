"""What a run that came from a capsule says of itself: which files it brought, as they were packed.

Such a run has thumbnails in place of images, `thumbnails/<digest>.jpg`, by the digest that its scores have of an image.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from alignbench.files import CHECK, is_intact, with_check, without_check, write_json
from alignbench.reading import check_record, read_json_object
from alignbench.store.manifest import ResultsError
from alignbench.store.run_folder import RunFolder

MERGE_AGAIN = "delete the run folder and merge its capsule again"


@dataclass(frozen=True)
class RunContents:
    """The files of one run in a capsule.

    Attributes:
        files: path in the run folder -> sha256.
        policy_files: path in `policy/` -> sha256, of the trained weights wherever they are; none of a run without any.
    """

    files: dict[str, str] = field(default_factory=dict)
    policy_files: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the record of checked values."""
        return cls(dict(values["files"]), dict(values["policy_files"]))


def write_contents(run: RunFolder, contents: RunContents) -> None:
    """Note in a run folder what came with it."""
    write_json(run.capsule_record, with_check(asdict(contents)))


def read_contents(run: RunFolder) -> RunContents:
    """Return what came with a run from a capsule.

    Raises:
        UserError: the record is damaged.
    """
    values = read_json_object(run.capsule_record, MERGE_AGAIN)
    if CHECK not in values or not is_intact(values):
        raise ResultsError(f"{run.capsule_record} has changed since it was written; {MERGE_AGAIN}")
    check_record(RunContents, without_check(values), str(run.capsule_record), MERGE_AGAIN)
    return RunContents.of_json(values)
