"""What a run notes of the looks at its win rate over base: the plan before the first, and what each look showed."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field

from alignbench.files import write_json
from alignbench.reading import check_record, read_json_object
from alignbench.settings.section import Share
from alignbench.store.manifest import ResultsError
from alignbench.store.run_folder import RunFolder
from alignbench.store.scores import ScoreInfo

if TYPE_CHECKING:
    from alignbench.statistics.sequential import Boundaries

FOLDER = "looks"
MAX_PROMPTS = 10**9
LOOK_AGAIN = "put the right file back, or delete the images and scores of this sampling and repeat the command"


@dataclass(frozen=True)
class Look:
    """What one look showed.

    Attributes:
        win_rate: over base, ties half, on the prompts so far.
        p_value: as of a single test.
        stops: whether it is at most the nominal level of the look.
    """

    win_rate: Share
    p_value: Share
    stops: bool


@dataclass(frozen=True)
class LookPlan:
    """When a run is looked at, and by whom; fixed before the first look.

    Attributes:
        rule: see `alignbench.statistics.sequential`.
        by_spending: whether the looks are not equally far apart.
        evaluator, version: whose win rate decides.
        prompts: fingerprint of the whole prompt set.
        seed: of the order of the prompts.
        sizes: different prompts that each look has, the last one all.
    """

    rule: Literal["obrien_fleming", "pocock"]
    by_spending: bool
    evaluator: str
    version: str
    prompts: str
    seed: int
    sizes: tuple[Annotated[int, Field(ge=1, le=MAX_PROMPTS)], ...]

    @property
    def boundaries(self) -> "Boundaries":
        from alignbench.statistics.sequential import Boundaries  # loads scipy

        return Boundaries(self.rule, tuple(size / self.sizes[-1] for size in self.sizes), self.by_spending)

    def look_with(self, num_prompts: int) -> int:
        """Return the number, from 0, of the last look that has at most so many prompts; of the first if none has."""
        return max(sum(size <= num_prompts for size in self.sizes) - 1, 0)


@dataclass(frozen=True)
class LookRecord:
    """The plan, and the looks that were taken."""

    plan: LookPlan
    looks: tuple[Look, ...] = ()

    @property
    def is_over(self) -> bool:
        """Whether no look is to come."""
        return len(self.looks) == len(self.plan.sizes) or any(look.stops for look in self.looks)

    def was_decided(self, by: ScoreInfo, num_prompts: int) -> bool:
        """Say whether a rule that was followed to its end has decided a comparison of so many prompts.

        Args:
            by: the evaluator of the comparison.
        """
        plan = self.plan
        is_last = bool(self.looks) and num_prompts == plan.sizes[len(self.looks) - 1]
        return self.is_over and is_last and (by.evaluator, by.version) == (plan.evaluator, plan.version)

    def after(self, look: Look) -> Self:
        """Return the record with one more look."""
        return replace(self, looks=(*self.looks, look))


def look_file(run: RunFolder, prompt_set: str, sampling_hash: str) -> Path:
    """Return where a run keeps the looks at one sampling of a prompt set."""
    return run.path / FOLDER / prompt_set / f"{sampling_hash}.json"


def store_looks(run: RunFolder, file: Path, record: LookRecord) -> None:
    """Write the looks, with their digest in the run's ledger."""
    run.store(
        file, lambda path: write_json(path, asdict(record.plan) | {"looks": [asdict(one) for one in record.looks]})
    )


def read_looks(run: RunFolder, prompt_set: str, sampling_hash: str) -> LookRecord | None:
    """Return the looks at a run; None where none were planned.

    Raises:
        ResultsError: the file is not as it was written.
    """
    file = look_file(run, prompt_set, sampling_hash)
    if run.recorded(file) is None:
        return None
    values = read_json_object(run.verified(file), LOOK_AGAIN)
    looks = values.pop("looks", None)
    check_record(LookPlan, values, str(file), LOOK_AGAIN)
    if not isinstance(looks, list):
        raise ResultsError(f"{file} has no list of looks; {LOOK_AGAIN}")
    for number, look in enumerate(looks, start=1):
        check_record(Look, look, f"look {number} of {file}", LOOK_AGAIN)
    sizes = tuple(values["sizes"])
    if list(sizes) != sorted(set(sizes)) or len(looks) > len(sizes):
        raise ResultsError(f"{file} has looks that do not rise; {LOOK_AGAIN}")
    values["sizes"] = sizes
    return LookRecord(LookPlan(**values), tuple(Look(**look) for look in looks))
