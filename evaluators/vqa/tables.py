"""Tables of questions about the images of prompts, in the layouts in which people publish them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from alignbench.data.storage.text_tables import TextRow, columns_of, read_rows, stream_json_list
from alignbench.errors import UserError
from evaluators.annotations import PromptTable

YES_NO = ("yes", "no")
MAX_CHOICES = 26  # they are named by letters


@dataclass(frozen=True)
class Item:
    """A question about the images of a prompt.

    Attributes:
        id: among the questions of the prompt.
        question: in words.
        choices: possible answers; `YES_NO` for a question of yes or no.
        answer: the right one.
        parents: ids of the questions without whose right answers this one counts as wrong.
        category: kind of question, for means over many prompts; empty where there is none.
    """

    id: str
    question: str
    choices: tuple[str, ...] = YES_NO
    answer: str = "yes"
    parents: tuple[str, ...] = ()
    category: str = ""


def read_questions(file: Path) -> PromptTable:
    """Return the questions of each prompt, as tuples of `Item`.

    Args:
        file: .jsonl, .csv or .tsv with one question a row, or .json with a list of them. Its columns tell whose layout
            it has: that of DSG and DPG (`text`, `proposition_id`, `dependency`, `tuple`,
            `question_natural_language`), that of TIFA (`caption`, `question`, `choices`, `answer`, `element_type`), or
            our own (`prompt` and `question`, and if needed `id`, `choices`, `answer`, `parents`, `category`).

    Raises:
        UserError: the file cannot be read, a row is of no use, or an id is there twice or stands for no question.
    """
    rows = list(_rows(file))
    named, read = _layout(file, columns_of(rows))
    found: dict[str, list[Item]] = {}
    for row in rows:
        items = found.setdefault(row.prompt(named), [])
        item = read(row, len(items) + 1)
        if item.id in {other.id for other in items}:
            raise UserError(f"{row.location} is a second question {item.id} of its prompt; give it another id")
        _check_choices(row, item)
        items.append(item)
    for prompt, items in found.items():
        ids = {item.id for item in items}
        if unknown := [parent for item in items for parent in item.parents if parent not in ids]:
            raise UserError(f"{file} names question {unknown[0]} as a parent, which {prompt!r} does not have")
    return PromptTable(file, {prompt: tuple(items) for prompt, items in found.items()})


def _rows(file: Path) -> Iterator[TextRow]:
    kinds = {".json": stream_json_list, ".jsonl": read_rows, ".csv": read_rows, ".tsv": read_rows}
    if file.suffix not in kinds:
        raise UserError(f"table={file} must be a file .jsonl, .json, .csv or .tsv with one question a row")
    yield from kinds[file.suffix](file)


def _layout(file: Path, columns: Sequence[str]) -> tuple[str, Callable[[TextRow, int], Item]]:
    """Return the column of the prompt, and what reads a row of this layout."""
    for needed, prompt, read in (
        (("text", "proposition_id", "question_natural_language"), "text", _dsg),
        (("caption", "question", "answer"), "caption", _tifa),
        (("prompt", "question"), "prompt", _own),
    ):
        if set(needed) <= set(columns):
            return prompt, read
    raise UserError(
        f"{file} has the columns {', '.join(columns) or 'none'}; expected prompt and question, or those of DSG or TIFA"
    )


def _dsg(row: TextRow, number: int) -> Item:
    parents = [part.strip() for part in str(row.values.get("dependency", "0")).split(",")]
    return Item(
        id=row.identifier("proposition_id"),
        question=row.text("question_natural_language"),
        parents=tuple(parent for parent in parents if parent not in ("", "0")),
        category=str(row.values.get("tuple", "")).partition("(")[0].strip(),
    )


def _tifa(row: TextRow, number: int) -> Item:
    choices, answer = texts(row, "choices"), row.text("answer")
    return Item(str(number), row.text("question"), choices, answer, category=str(row.values.get("element_type", "")))


def _own(row: TextRow, number: int) -> Item:
    return Item(
        id=row.identifier("id") if row.values.get("id") not in (None, "") else str(number),
        question=row.text("question"),
        choices=texts(row, "choices") or YES_NO,
        answer=row.text("answer") if row.values.get("answer") else "yes",
        parents=texts(row, "parents"),
        category=str(row.values.get("category") or ""),
    )


def texts(row: TextRow, column: str) -> tuple[str, ...]:
    """Return the texts of a list, or of a cell where a | is between them."""
    value = row.values.get(column) or []
    parts = [part.strip() for part in value.split("|")] if isinstance(value, str) else value
    if not isinstance(parts, list) or not all(isinstance(part, str | int) for part in parts):
        raise UserError(f'{row.location} has no list of texts in "{column}"')
    return tuple(map(str, parts))


def _check_choices(row: TextRow, item: Item) -> None:
    if item.answer not in item.choices:
        raise UserError(f"{row.location} has the answer {item.answer!r}, which is none of {', '.join(item.choices)}")
    if not 2 <= len(set(item.choices)) == len(item.choices) <= MAX_CHOICES:
        raise UserError(f"{row.location} must have 2 to {MAX_CHOICES} different choices")
