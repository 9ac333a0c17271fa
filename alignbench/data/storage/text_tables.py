"""Tables of text that users write: ambiguous tables are refused, and messages name the line of a row."""

import csv
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignbench.errors import UserError
from alignbench.reading import json_errors, parse_json, read_bytes


@dataclass(frozen=True)
class TextRow:
    """One row of a table of text.

    Attributes:
        location: line and file, such as `line 3 of prompts.csv`.
        values: value of each column; all values are text, except in JSON.
    """

    location: str
    values: dict[str, Any]

    def text(self, column: str) -> str:
        """Return the text in a column.

        Raises:
            UserError: the column has no text.
        """
        value = self.values.get(column)
        if not isinstance(value, str):
            raise UserError(f'{self.location} has no text in column "{column}"')
        return value

    def identifier(self, column: str) -> str:
        """Return the text in a column, or the whole number in it as text; some programs write 3 as 3.0.

        Raises:
            UserError: the column has neither.
        """
        value = self.values.get(column)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if isinstance(value, float) and value.is_integer():
            return f"{value:.0f}"
        return self.text(column)

    def prompt(self, column: str) -> str:
        """Return the prompt in a column, byte for byte.

        Raises:
            UserError: the prompt is empty, or has characters that text encoders and files cannot hold.
        """
        prompt = self.text(column)
        if not prompt.strip():
            raise UserError(f"{self.location} has an empty prompt")
        if "\0" in prompt:
            raise UserError(f"{self.location} has a prompt with a NUL byte")
        if any("\ud800" <= character <= "\udfff" for character in prompt):
            raise UserError(f"{self.location} has a prompt with half a surrogate pair, which is not a character")
        return prompt

    def groups(self) -> tuple[str, ...]:
        """Return the value of the column `group`: no name or one name."""
        return (self.text("group"),) if self.values.get("group") else ()


def columns_of(rows: list[TextRow]) -> list[str]:
    """Return the names of all columns, in order of appearance."""
    return list(dict.fromkeys(name for row in rows for name in row.values))


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file; line ends are kept as they are.

    Raises:
        UserError: it cannot be read, or is not UTF-8.
    """
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 at byte {error.start}; save it as UTF-8") from None


def lines_of(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, numbered from 1. Only line feeds end a line, unlike in `splitlines`."""
    number = start = 0
    while start <= len(text):
        number, end = number + 1, text.find("\n", start)
        line = text[start:] if end < 0 else text[start:end]
        if line.strip():
            yield number, line.removesuffix("\r")
        start = len(text) + 1 if end < 0 else end + 1


def read_rows(path: Path) -> list[TextRow]:
    """Read a table: .jsonl (one object in each line), .csv or .tsv (first line: column names). Blank lines are skipped.

    Tab-separated values are read literally, because the published prompt lists are. There, a cell in quotes is refused,
    because some programs add quotes that are not part of the text.

    Raises:
        UserError: the file is not UTF-8, is damaged, or has a column twice.
    """
    return list(stream_rows(path))


def stream_rows(path: Path) -> Iterator[TextRow]:
    """Yield the rows of a table as `read_rows` returns them, with little memory."""
    return {".jsonl": _jsonl, ".csv": _csv, ".tsv": _tsv}[path.suffix](path)


def stream_json_list(path: Path) -> Iterator[TextRow]:
    """Yield the objects of a file that holds one JSON list.

    Raises:
        UserError: the file is damaged, or is not a JSON list of objects.
    """
    text = read_text(path)
    blanks = re.compile(r"\s*")

    def after_blanks(position: int) -> int:
        found = blanks.match(text, position)
        return position if found is None else found.end()

    decoder, position, number = json.JSONDecoder(), after_blanks(0), 0
    if text[position : position + 1] != "[":
        raise UserError(f"{path} is not a JSON list")
    position = after_blanks(position + 1)
    while text[position : position + 1] != "]":
        number += 1
        location = f"entry {number} of {path}"
        with json_errors(location):
            values, position = decoder.raw_decode(text, position)
        if not isinstance(values, dict):
            raise UserError(f"{location} is not a JSON object")
        yield TextRow(location, values)
        position = after_blanks(position)
        if text[position : position + 1] == ",":
            position = after_blanks(position + 1)
        elif text[position : position + 1] != "]":
            raise UserError(f"{location} is followed by neither a comma nor the end of the list")


def _jsonl(path: Path) -> Iterator[TextRow]:
    for number, line in lines_of(read_text(path)):
        location = f"line {number} of {path}"
        values = parse_json(line, location)
        if not isinstance(values, dict):
            raise UserError(f"{location} is not a JSON object")
        yield TextRow(location, values)


def _csv(path: Path) -> Iterator[TextRow]:
    read_text(path)  # refuses what is not UTF-8
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from _with_header(path, _csv_lines(path, file))


def _csv_lines(path: Path, file: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    reader, start = csv.reader(file, strict=True), 1
    try:
        for cells in reader:
            if cells:
                yield start, cells
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"line {start} of {path} is not CSV: {error}") from None


def _tsv(path: Path) -> Iterator[TextRow]:
    yield from _with_header(path, _tsv_lines(path))


def _tsv_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    for number, line in lines_of(read_text(path)):
        cells = line.split("\t")
        for cell in cells:
            if len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in cell[1:-1].replace('""', ""):
                raise UserError(
                    f"line {number} of {path} has a cell in quotes, {cell}, and it is not clear whether the quotes "
                    "are part of the text; save the table as .csv or .jsonl"
                )
        yield number, cells


def _with_header(path: Path, lines: Iterator[tuple[int, list[str]]]) -> Iterator[TextRow]:
    _, names = next(lines, (0, []))
    if repeated := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{path} has more than one column {repeated[0]!r}")
    for number, cells in lines:
        if len(cells) != len(names):
            raise UserError(
                f"line {number} of {path} has {len(cells)} cells, but its first line names {len(names)} columns; "
                "put text that contains the separator in quotes, or use .jsonl"
            )
        yield TextRow(f"line {number} of {path}", dict(zip(names, cells, strict=True)))
