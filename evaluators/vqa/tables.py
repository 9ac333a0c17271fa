"""Tables of questions about the images of prompts, in the layouts in which people publish them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
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

    A prompt may be there under several ids with the same questions. Parents that DSG's table names without having a
    question of that number are left out, as nothing can be wrong about them.

    Raises:
        UserError: the file cannot be read, a row is of no use, a question is there twice, a prompt has two different
            lists of questions, or a parent in a table of our own layout stands for no question.
    """
    rows = list(_rows(file))
    layout = _layout(file, columns_of(rows))
    lists: dict[tuple[str, str], list[Item]] = {}
    for row in rows:
        items = lists.setdefault((row.prompt(layout.prompt), str(row.values.get(layout.list_id))), [])
        item = layout.read(row, len(items) + 1)
        if item.id in {other.id for other in items}:
            raise UserError(f"{row.location} is a second question {item.id} of its prompt; give it another id")
        _check_choices(row, item)
        items.append(item)
    found: dict[str, tuple[Item, ...]] = {}
    for (prompt, _), items in lists.items():
        ids = {item.id for item in items}
        unknown = [parent for item in items for parent in item.parents if parent not in ids]
        if unknown and layout.read is _own:
            raise UserError(f"{file} names question {unknown[0]} as a parent, which {prompt!r} does not have")
        known = tuple(replace(item, parents=tuple(one for one in item.parents if one in ids)) for item in items)
        if found.setdefault(prompt, known) != known:
            raise UserError(f"{file} has two different lists of questions about {prompt!r}; keep one of the two")
    return PromptTable(file, found)


@dataclass(frozen=True)
class _Layout:
    """What the columns of a table are.

    Attributes:
        needed: columns by which it is known.
        prompt: column of the prompt.
        list_id: column that names the list of questions a row belongs to.
        read: makes a question of a row and of its number in its list.
    """

    needed: tuple[str, ...]
    prompt: str
    list_id: str
    read: Callable[[TextRow, int], Item]


def _rows(file: Path) -> Iterator[TextRow]:
    kinds = {".json": stream_json_list, ".jsonl": read_rows, ".csv": read_rows, ".tsv": read_rows}
    if file.suffix not in kinds:
        raise UserError(f"table={file} must be a file .jsonl, .json, .csv or .tsv with one question a row")
    yield from kinds[file.suffix](file)


def _layout(file: Path, columns: Sequence[str]) -> _Layout:
    for layout in (
        _Layout(("text", "proposition_id", "question_natural_language"), "text", "item_id", _dsg),
        _Layout(("caption", "question", "answer"), "caption", "id", _tifa),
        _Layout(("prompt", "question"), "prompt", "", _own),
    ):
        if set(layout.needed) <= set(columns):
            return layout
    raise UserError(
        f"{file} has the columns {', '.join(columns) or 'none'}; expected prompt and question, or those of DSG or TIFA"
    )


def _dsg(row: TextRow, number: int) -> Item:
    value = row.values.get("dependency", "0")
    parents = [str(part).strip() for part in (value if isinstance(value, list) else str(value).split(","))]
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
