"""The verdicts of comparers: one line a call, kept as they come, so that nothing is asked twice.

results/comparisons/<prompt set>/<sampling hash>/<comparer>@<version>.jsonl, of images of two runs
results/<run>/rewards/<reward>/verdicts-<process>.jsonl, of groups of images that a training has made
"""

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field

from alignbench.files import append_json_lines, locked, with_check
from alignbench.pairwise.comparer import Verdict
from alignbench.pairwise.orders import JudgedPair
from alignbench.reading import check_record
from alignbench.store.run_folder import intact_lines

COMPARISONS = "comparisons"
DELETE_TO_COMPARE = "delete it to compare its images again"
DELETE_TO_ASK = "delete it to ask for its verdicts again"

CallKey = tuple[str, str, str]  # digests of the first and the second image, and the prompt
PairKey = tuple[str, str, str, int]  # runs a and b, prompt id, number of the image
Number = Annotated[int, Field(ge=0, lt=2**31)]
Shown = tuple[Number, Number]  # numbers, within a group, of the image that was shown first and of the other one


def call_key(digest_a: str, digest_b: str, a_first: bool, prompt: str) -> CallKey:
    """Return what a verdict holds for: two image files in the order in which they were shown, and the prompt."""
    return (digest_a, digest_b, prompt) if a_first else (digest_b, digest_a, prompt)


@dataclass(frozen=True)
class Judged:
    """A verdict and what it is about: a line of the file.

    Attributes:
        image: number of the image within its prompt.
        a, b: names of the two runs.
        digest_a, digest_b: of the image files.
        a_first: whether the image of a was shown first.
        identity: of the comparer, see `Comparer.identity`.
    """

    prompt_id: str
    prompt: str
    image: Number
    a: str
    b: str
    digest_a: str
    digest_b: str
    a_first: bool
    identity: str
    verdict: Verdict

    @property
    def call(self) -> CallKey:
        """What the verdict holds for, whatever the runs are called."""
        return call_key(self.digest_a, self.digest_b, self.a_first, self.prompt)

    @property
    def pair(self) -> PairKey:
        return self.a, self.b, self.prompt_id, self.image

    @classmethod
    def of_json(cls, values: dict[str, Any]) -> Self:
        """Return the record of a checked line."""
        return cls(**{**values, "verdict": _verdict(values)})


@dataclass(frozen=True)
class VerdictFile:
    """The verdicts of one comparer on one prompt set and sampling; processes and commands may add at once.

    Attributes:
        path: `<results>/comparisons/<prompt set>/<sampling hash>/<comparer>@<version>.jsonl`.
    """

    path: Path

    @classmethod
    def of(cls, root: Path, prompt_set: str, sampling_hash: str, comparer: str, version: str) -> Self:
        return cls(comparison_folder(root, prompt_set, sampling_hash) / f"{comparer}@{version}.jsonl")

    @property
    def prompt_set(self) -> str:
        return self.path.parts[-3]

    @property
    def sampling_hash(self) -> str:
        return self.path.parts[-2]

    @property
    def comparer(self) -> str:
        return self.path.stem.partition("@")[0]

    @property
    def version(self) -> str:
        return self.path.stem.partition("@")[2]

    def canary_answers(self, identity: str) -> Path:
        """Return where the answers to the canary pairs are, of the comparer with this identity."""
        digest = hashlib.sha256(identity.encode()).hexdigest()[:10]
        return self.path.with_name(f"{self.path.stem}.canaries-{digest}.json")

    def read(self) -> list[Judged]:
        """Return all lines, in the order in which they came; a line that is being written is left out.

        Raises:
            ResultsError: a line is not as it was written.
        """
        if not self.path.exists():
            return []
        return [Judged.of_json(line) for line in _checked_lines(self.path, Judged, DELETE_TO_COMPARE)]

    def read_latest(self) -> list[Judged]:
        """Return the last line of each pair and order, of the comparer as it was when it was last asked."""
        lines = self.read()
        kept = {(line.pair, line.a_first): line for line in lines if line.identity == lines[-1].identity}
        return list(kept.values())

    def add(self, lines: Iterable[Judged]) -> None:
        """Keep verdicts; a kill loses none that was kept."""
        with locked(self.path.with_name(f".{self.path.name}.lock")):
            append_json_lines(self.path, [with_check(asdict(line)) for line in lines])


def comparison_folder(root: Path, prompt_set: str, sampling_hash: str) -> Path:
    """Return the folder of all verdicts on one prompt set and sampling."""
    return Path(root) / COMPARISONS / prompt_set / sampling_hash


def verdict_files(root: Path) -> list[VerdictFile]:
    """Return the files of verdicts under a results root, sorted by name."""
    return [VerdictFile(path) for path in sorted(Path(root).glob(f"{COMPARISONS}/*/*/*@*.jsonl"))]


def judged_pairs(lines: Iterable[Judged], run: str | None = None) -> dict[PairKey, JudgedPair]:
    """Join the two orders of each pair; of two orders with other images, as a kill may leave them, none counts.

    Args:
        run: of which the pairs are; None for those of all runs.
    """
    orders: dict[PairKey, dict[bool, Judged]] = {}
    for line in lines:
        if run in (None, line.a, line.b):
            orders.setdefault(line.pair, {})[line.a_first] = line
    found = {}
    for pair, of in orders.items():
        forth, back = of.get(True), of.get(False)
        if forth and back and (forth.digest_a, forth.digest_b) != (back.digest_a, back.digest_b):
            continue
        one = next(iter(of.values()))
        verdicts = (forth and forth.verdict, back and back.verdict)
        found[pair] = JudgedPair(one.prompt, *verdicts, is_one_image=one.digest_a == one.digest_b)
    return found


@dataclass(frozen=True)
class JudgedInGroup:
    """A verdict on two images of a group: a line of the file of a training.

    Attributes:
        group: digest of the images and of their prompt.
        shown: see `Shown`.
    """

    group: str
    shown: Shown
    verdict: Verdict


def group_verdict_file(folder: Path, process: int) -> Path:
    """Return the file in which one process of a training keeps its verdicts."""
    return folder / f"verdicts-{process}.jsonl"


def group_verdict_files(folder: Path) -> list[Path]:
    """Return the files of all processes that a training ever had."""
    return sorted(folder.glob("verdicts-*.jsonl"))


def read_group_verdicts(path: Path) -> dict[str, dict[Shown, Verdict]]:
    """Return what a file holds by group, in the order in which they came; a line that a kill has cut is left out.

    Raises:
        ResultsError: a line is not as it was written.
    """
    groups: dict[str, dict[Shown, Verdict]] = {}
    for line in _checked_lines(path, JudgedInGroup, DELETE_TO_ASK):
        first, second = line["shown"]
        groups.setdefault(line["group"], {})[first, second] = _verdict(line)
    return groups


def add_group_verdicts(path: Path, group: str, verdicts: Iterable[tuple[Shown, Verdict]]) -> None:
    """Keep what was said of some pairs of a group; a kill loses none that was kept."""
    lines = (JudgedInGroup(group, shown, verdict) for shown, verdict in verdicts)
    append_json_lines(path, [with_check(asdict(line)) for line in lines])


def _checked_lines(path: Path, kind: type, remedy: str) -> list[dict[str, Any]]:
    """Return the records of a file of verdicts, as JSON has them; a line that is being written is left out.

    Raises:
        ResultsError: a line is not as it was written.
    """
    lines = intact_lines(path, remedy)
    for number, line in enumerate(lines, start=1):
        check_record(kind, line, f"line {number} of {path}", remedy)
    return lines


def _verdict(line: dict[str, Any]) -> Verdict:
    verdict = Verdict(**line["verdict"])
    return replace(verdict, tokens=(verdict.tokens[0], verdict.tokens[1]))
