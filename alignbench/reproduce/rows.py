"""The rows of published tables that can be run again: what each is, and which command runs it."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from alignbench.errors import UserError, did_you_mean
from alignbench.reading import read_yaml

if TYPE_CHECKING:
    from alignbench.report.published_tables.values import PublishedValue

FOLDER = Path(__file__).resolve().parent / "rows"
Text = Annotated[str, Field(min_length=1)]
BASE = "base"  # how tables call the untouched model
ONE_RUN = "one training run on each side, so the spread of training seeds is not in the tolerance"


class Row(BaseModel):
    """One row of a published table.

    Attributes:
        id: what is typed.
        source: where its figures were read.
        table, model, method, variant: as in `alignbench/report/published_tables`, whose figures it expects.
        prompts: prompt set that it is evaluated on.
        printed_prompts: prompt set of the printed figures, where the source does not name `prompts`.
        num_prompts: number of prompts behind a printed figure.
        command: words of the command of the main program; the first names an experiment.
        starts_from: row whose trained weights training starts from; None for the untouched model.
        needs: keys of the command that the user has to give, and what to put there.
        device_hours: of training; None where our sources do not say.
        hours_source: who says so.
        confounders: what of its sources or settings may make a difference; see `may_differ`.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    id: Text
    paper: Text
    arxiv_id: Text
    source: Text
    table: Text
    model: Text
    method: Text
    variant: str = ""
    prompts: Text
    printed_prompts: str | None = None
    num_prompts: Annotated[int, Field(gt=0)]
    command: Annotated[list[Text], Field(min_length=1)]
    starts_from: Text | None = None
    needs: dict[str, Text] = {}
    hardware: Text
    device_hours: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
    hours_source: Text
    confounders: Annotated[list[Text], Field(min_length=1)]

    @property
    def may_differ(self) -> list[str]:
        """All that may make a difference although the settings are the same."""
        return [*self.confounders, *([ONE_RUN] if self.method != BASE else [])]

    @property
    def cited(self) -> str:
        """Where its figures are printed."""
        number = "" if self.arxiv_id == "none" else f", arXiv {self.arxiv_id}"
        return (
            f"{self.paper}{number}, table {self.table}"
            if self.table[:1].isdigit()
            else f"{self.paper}{number}, {self.table}"
        )

    @property
    def experiment(self) -> str:
        """The name of its file in conf/experiment."""
        return self.command[0].removeprefix("experiment=")


@dataclass(frozen=True)
class Figure:
    """One printed figure of a row.

    Attributes:
        decimals: digits behind the point, as its column is printed.
    """

    printed: "PublishedValue"
    decimals: int


def read_rows(folder: Path = FOLDER) -> dict[str, Row]:
    """Return all rows by their id, in the order of the files.

    Raises:
        UserError: a file is damaged, or a row has no figure, an unknown key or a wrong value.
    """
    rows: dict[str, Row] = {}
    for file in sorted(folder.glob("*.yaml")):
        for name, values in _entries(file):
            if name in rows:
                raise UserError(f"{file} has the row {name}, which another file has, too; rename one")
            rows[name] = _row(file, name, values)
    for row in rows.values():
        if row.starts_from is not None and row.starts_from not in rows:
            raise UserError(
                f"row {row.id} starts from {row.starts_from}, which is no row;{_near(row.starts_from, rows)}"
            )
        if not figures(row, folder):
            raise UserError(
                f"row {row.id} has no figure in alignbench/report/published_tables: {row.paper}, table {row.table}, "
                f"{row.model}, {row.method} {row.variant}".rstrip()
            )
    return rows


def _entries(file: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return the values of each row of a file.

    Those under `all` hold for every row that does not set them itself. Confounders of both are joined.
    """
    content = read_yaml(file)
    if not isinstance(content, dict) or set(content) != {"all", "rows"}:
        raise UserError(f"{file} must have the keys all and rows, and no others; put the right file back")
    common, rows = content["all"], content["rows"]
    if not (
        isinstance(common, dict) and isinstance(rows, dict) and all(isinstance(one, dict) for one in rows.values())
    ):
        raise UserError(f"{file} must map each row to its settings; put the right file back")
    joined = {name: _joined(common.get("confounders"), values.get("confounders")) for name, values in rows.items()}
    return [(str(name), {"id": str(name)} | common | values | joined[name]) for name, values in rows.items()]


def _joined(common: Any, own: Any) -> dict[str, Any]:
    """Return the confounders of a row, if both are lists; what they must be is checked with the row."""
    return {"confounders": [*common, *own]} if isinstance(common, list) and isinstance(own, list) else {}


def _row(file: Path, name: str, values: dict[str, Any]) -> Row:
    try:
        row = Row.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{file}, row {name}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if not row.command[0].startswith("experiment="):
        raise UserError(f"{file}, row {name}: command must begin with experiment=NAME, not with {row.command[0]}")
    return row


def find_row(name: str, rows: dict[str, Row] | None = None) -> Row:
    """Return one row.

    Raises:
        UserError: there is none of that name; those that are spelled alike are named.
    """
    rows = read_rows() if rows is None else rows
    if name not in rows:
        raise UserError(f"{name} is no row;{_near(name, rows)}")
    return rows[name]


def _near(name: str, rows: dict[str, Row]) -> str:
    near = did_you_mean(name, list(rows)).partition(" available:")[0]
    return f"{near} python -m alignbench.reproduce lists all"


@cache
def _printed(folder: Path) -> tuple["PublishedValue", ...]:
    from alignbench.report.published_tables.values import load

    return (*load(), *load(folder))


def figures(row: Row, folder: Path = FOLDER) -> list[Figure]:
    """Return the printed figures of a row, in the order of their table.

    Args:
        folder: of the rows, which may have tables of its own beside those of papers.
    """
    prompts = row.prompts if row.printed_prompts is None else row.printed_prompts
    wanted = (row.paper, row.table, row.model, row.method, row.variant, prompts)
    printed = _printed(folder)
    own = [
        one for one in printed if (one.paper, one.table, one.model, one.method, one.variant, one.prompt_set) == wanted
    ]
    return [Figure(one, _decimals(one, printed)) for one in own]


def _decimals(value: "PublishedValue", printed: tuple["PublishedValue", ...]) -> int:
    """Return the digits behind the point of a figure: the most that a figure of its column has.

    A table prints a column with one number of digits, and a number that ends in 0 has lost one in reading.
    """
    column = (value.paper, value.table, value.evaluator, value.statistic)
    same = [one.value for one in printed if (one.paper, one.table, one.evaluator, one.statistic) == column]
    return max(len(repr(one).partition(".")[2].rstrip("0")) for one in same)
