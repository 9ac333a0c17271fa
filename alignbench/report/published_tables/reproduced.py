"""What rows of published tables came to: `reproductions/ROW.json` in the results folder, which the report shows."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from alignbench.errors import UserError
from alignbench.files import write_json
from alignbench.reading import check_record, read_json_object

FOLDER = "reproductions"
REMEDY = "delete it, and repeat python -m alignbench.reproduce, which writes it again"

Verdict = Literal["reproduced", "differs", "not comparable", "not measured"]
Number = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True)
class OwnFigure:
    """Our figure with its 95 % interval, in the printed scale; no ends where it has no interval."""

    value: Number
    low: Number | None
    high: Number | None


@dataclass(frozen=True)
class FigureRecord:
    """One printed figure.

    Attributes:
        figure: evaluator and statistic.
        expected: as printed.
        own: None where nothing was measured.
        difference: ours minus printed.
        allowed: the largest difference that is within the tolerance; None where nothing is compared.
        why: why it is not comparable or not measured, or what the tolerance is made of.
    """

    figure: str
    expected: Number
    own: OwnFigure | None
    difference: Number | None
    allowed: Number | None
    verdict: Verdict
    why: str


@dataclass(frozen=True)
class ReproductionRecord:
    """The verdict on a row, and all that it stands on.

    Attributes:
        run: name of the run folder that was compared.
        differences: settings of the run that are not those of the row.
        confounders: what may make a difference although the settings are the same.
        version: of the program that judged.
    """

    row: str
    paper: str
    arxiv_id: str
    table: str
    source: str
    command: list[str]
    run: str
    verdict: Verdict
    differences: list[str]
    confounders: list[str]
    figures: list[FigureRecord]
    version: str

    def write(self, results: Path) -> Path:
        """Write the record atomically; return its file."""
        file = results / FOLDER / f"{self.row}.json"
        write_json(file, asdict(self))
        return file

    @classmethod
    def read(cls, file: Path) -> "ReproductionRecord":
        """Read what `write` wrote.

        Raises:
            UserError: it is damaged, or the record of another row.
        """
        values = read_json_object(file, REMEDY)
        check_record(cls, values, str(file), REMEDY)
        figures = [
            FigureRecord(**{**one, "own": None if one["own"] is None else OwnFigure(**one["own"])})
            for one in values["figures"]
        ]
        found = cls(**{**values, "figures": figures})
        if found.row != file.stem:
            raise UserError(f"{file} is the record of {found.row}; {REMEDY}")
        return found


def read_reproductions(results: Path, left_out: dict[str, str]) -> list[ReproductionRecord]:
    """Return the records of a results folder by the names of their rows.

    Args:
        left_out: is told why others cannot be read, by their path in the results.
    """
    found = []
    for file in sorted((results / FOLDER).glob("*.json")):
        try:
            found.append(ReproductionRecord.read(file))
        except UserError as error:
            left_out[file.relative_to(results).as_posix()] = str(error)
    return found
