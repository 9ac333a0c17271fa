"""What a comparer said of the canary pairs when its first verdicts were made: a file beside them."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from alignbench.files import is_intact, with_check, without_check, write_json
from alignbench.pairwise.canaries import canaries
from alignbench.pairwise.comparer import Verdict
from alignbench.reading import check_record, read_json_object
from alignbench.store.manifest import ResultsError

REMEDY = "delete it to ask for these answers again"


@dataclass(frozen=True)
class CanaryAnswers:
    """The answers of one comparer.

    Attributes:
        identity: of the comparer, see `Comparer.identity`.
        pairs: see `alignbench.pairwise.canaries.pairs_digest`.
        verdicts: one a pair, in their order.
    """

    identity: str
    pairs: str
    verdicts: tuple[Verdict, ...]

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Return the answers in a file; None where there is none.

        Raises:
            ResultsError: it is not as it was written.
            UserError: it cannot be read.
        """
        if not path.exists():
            return None
        found = read_json_object(path, REMEDY)
        record = without_check(found)
        if not is_intact(found):
            raise ResultsError(f"{path} has changed since it was written; {REMEDY}")
        check_record(cls, record, str(path), REMEDY)
        if len(record["verdicts"]) != len(canaries()):
            raise ResultsError(f"{path} has {len(record['verdicts'])} answers, expected {len(canaries())}; {REMEDY}")
        verdicts = (Verdict(**one) for one in record["verdicts"])
        kept = tuple(replace(one, tokens=(one.tokens[0], one.tokens[1])) for one in verdicts)
        return cls(record["identity"], record["pairs"], kept)

    def write(self, path: Path) -> None:
        """Keep the answers."""
        write_json(path, with_check(asdict(self)))
