"""A study on the disk: which images people are shown and what they are asked, decided before the first vote.

results/studies/<name>/study.json     what is compared; never changes
results/studies/<name>/study.sqlite   raters and votes, as they come in
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

from alignbench.errors import did_you_mean
from alignbench.files import CHECK, is_intact, sha256, without_check
from alignbench.reading import check_record, read_json_object
from alignbench.store.image_records import PromptRecord, read_prompts
from alignbench.store.manifest import Manifest, ResultsError
from alignbench.store.run_folder import RunFolder
from alignbench.votes.presets import PRESETS, Preset

SCHEMA_VERSION = 1
NEW_STUDY = "put the right file back, or start a new study with --name NAME"
STUDIES = "studies"


@dataclass(frozen=True)
class Study:
    """What is decided before the first vote; the content of `study.json`.

    Attributes:
        preset: name of the protocol, see `alignbench.votes.presets`.
        runs: names of the run folders that are compared, in the order given.
        prompts: ids of the prompts whose first image is shown, in the order of the prompt set.
        pairs: whether `all` pairs of runs are shown, or those with the `base` run alone.
        prompts_per_rater: on how many of the prompts each rater votes; None for all.
        checks_per_rater: how many attention checks each rater gets.
        leave_out_below: raters who pass a smaller share of their checks do not count.
        seed: of prompts, order, sides and checks.
        images: run -> digest over the files of its images.
    """

    name: str
    preset: str
    model: str
    prompt_set: str
    sampling_hash: str
    runs: tuple[str, ...]
    prompts: tuple[str, ...]
    pairs: Literal["all", "base"]
    prompts_per_rater: int | None
    checks_per_rater: int
    leave_out_below: float
    seed: int
    images: dict[str, str]
    schema_version: int = SCHEMA_VERSION

    @property
    def protocol(self) -> Preset:
        return PRESETS[self.preset]

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read `study.json`.

        Raises:
            ResultsError: it is absent or was written by another version.
        """
        if not file.exists():
            raise ResultsError(f"{file} is missing; {file.parent} is not a study")
        values = read_json_object(file, NEW_STUDY)
        names = {entry.name for entry in fields(cls)}
        if values.get("schema_version") != SCHEMA_VERSION or values.keys() - {CHECK} != names:
            raise ResultsError(f"{file} was written by another version of alignbench; use that, or start a new study")
        if not is_intact(values):
            raise ResultsError(f"{file} has changed since it was written; {NEW_STUDY}")
        values = without_check(values)
        check_record(cls, values, str(file), NEW_STUDY)
        if values["preset"] not in PRESETS:
            raise ResultsError(f"{file} has preset={values['preset']};{did_you_mean(values['preset'], list(PRESETS))}")
        if wrong := [run for run in values["runs"] if Path(run).name != run or run in ("", ".", "..")]:
            raise ResultsError(f"{file} compares {wrong[0]!r}, which is no name of a run; {NEW_STUDY}")
        return cls(**{**values, **{name: tuple(values[name]) for name in ("runs", "prompts")}})


@dataclass(frozen=True)
class StudyFolder:
    """Where a study keeps its things.

    Attributes:
        path: `<results>/studies/<name>`.
    """

    path: Path

    @property
    def file(self) -> Path:
        return self.path / "study.json"

    @property
    def ballots(self) -> Path:
        return self.path / "study.sqlite"

    @property
    def root(self) -> Path:
        """The results root that the study's runs lie in."""
        return self.path.parent.parent

    @cached_property
    def study(self) -> Study:
        return Study.read(self.file)

    def run(self, name: str) -> RunFolder:
        return RunFolder(self.root / name)

    def image_folder(self, run: str) -> Path:
        return self.run(run).images(self.study.prompt_set, self.study.sampling_hash)

    @cached_property
    def manifests(self) -> dict[str, Manifest]:
        """The manifest of each run.

        Raises:
            ResultsError: a run is gone.
        """
        gone = [name for name in self.study.runs if not self.run(name).manifest_file.exists()]
        if gone:
            raise ResultsError(f"{self.path} compares {gone[0]}, which is not in {self.root}; bring it back")
        return {name: self.run(name).manifest for name in self.study.runs}

    @cached_property
    def records(self) -> dict[str, dict[str, PromptRecord]]:
        """Run -> prompt id -> prompt, for the prompts of the study."""
        chosen = set(self.study.prompts)
        return {
            run: {one.prompt_id: one for one in read_prompts(self.image_folder(run)) if one.prompt_id in chosen}
            for run in self.study.runs
        }

    def text(self, prompt_id: str) -> str:
        return self.records[self.study.runs[0]][prompt_id].prompt

    def image(self, run: str, prompt_id: str) -> Path:
        return self.image_folder(run) / self.records[run][prompt_id].images[0]

    def check_images(self) -> None:
        """Refuse to go on with other images than those that were voted on.

        Raises:
            ResultsError: a run or an image is gone, or was made anew.
        """
        assert self.manifests
        for run, digest in self.study.images.items():
            if digest_of([self.image(run, prompt_id) for prompt_id in self.study.prompts]) != digest:
                raise ResultsError(
                    f"images of {run} have changed since {self.path} began; bring them back, or start a new study "
                    "with --name NAME"
                )


def study_folders(root: Path) -> list[StudyFolder]:
    """Return all studies under a results root, sorted by name."""
    return [StudyFolder(file.parent) for file in sorted(Path(root).glob(f"{STUDIES}/*/study.json"))]


def digest_of(files: Sequence[Path]) -> str:
    """Return one digest over the contents of these files, in their order.

    Raises:
        ResultsError: one is gone.
    """
    try:
        return hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest()
    except FileNotFoundError as error:
        raise ResultsError(f"{error.filename} is missing; make it again") from None
