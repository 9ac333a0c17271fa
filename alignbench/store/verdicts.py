"""The verdicts of comparers: one line a call, kept as they come, so that nothing is asked twice.

results/comparisons/<prompt set>/<sampling hash>/<comparer>@<version>.jsonl
"""

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field

from alignbench.errors import UserError
from alignbench.files import append_json_lines, is_intact, locked, with_check, without_check
from alignbench.pairwise.comparer import Verdict
from alignbench.pairwise.orders import JudgedPair
from alignbench.reading import check_record, read_json_lines
from alignbench.store.manifest import ResultsError

COMPARISONS = "comparisons"
DELETE_TO_COMPARE = "delete it to compare its images again"

CallKey = tuple[str, str, str]  # digests of the first and the second image, and the prompt
PairKey = tuple[str, str, str, int]  # runs a and b, prompt id, number of the image


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
    image: Annotated[int, Field(ge=0, lt=2**31)]
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
        verdict = Verdict(**values["verdict"])
        return cls(**{**values, "verdict": replace(verdict, tokens=(verdict.tokens[0], verdict.tokens[1]))})


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
        try:
            records = read_json_lines(self.path)
        except UserError:
            records = None
        if records is None or not all(map(is_intact, records)):
            raise ResultsError(f"{self.path} has changed since it was written; {DELETE_TO_COMPARE}")
        lines = [without_check(record) for record in records]
        for number, line in enumerate(lines, start=1):
            check_record(Judged, line, f"line {number} of {self.path}", DELETE_TO_COMPARE)
        return [Judged.of_json(line) for line in lines]

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
