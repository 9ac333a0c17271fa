"""What a model has answered, kept on the disk, so that several evaluators, runs and commands ask a question once."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from alignbench.errors import UserError
from alignbench.files import CHECK, append_json_lines, cache_folder, is_intact, locked, with_check, without_check
from alignbench.reading import check_record, parse_json
from alignbench.settings.section import Share


@dataclass(frozen=True)
class Question:
    """What is asked about an image.

    Attributes:
        text: the whole message, as the model gets it after the image.
        answers: the beginnings of an answer that are accepted, such as `Yes` and `yes`.
    """

    text: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """What is read of the next token, without generating anything.

    Attributes:
        probability: of all tokens that begin an accepted answer, 0..1.
        blank: the part of it on tokens that are only white space, which begin answers of any kind.
        likeliest: the text of the likeliest token.
    """

    probability: Share
    blank: Share
    likeliest: str


@dataclass(frozen=True)
class _Line(Answer):
    """A line of a file of answers."""

    key: str
    question: str
    answers: list[str]


class AnswerCache:
    """Answers in files of JSON lines; commands may add to them at the same time.

    A line that is damaged is not read, and its question is asked again.

    Args:
        identity: all that answers depend on beside image, question and accepted answers: weights, precision, template.
        folder: of the caches of all models; one in the user's cache folder by default.
    """

    def __init__(self, identity: str, folder: Path | None = None) -> None:
        name = hashlib.sha256(identity.encode()).hexdigest()[:32]
        self.folder = (folder or cache_folder() / "answers") / name
        self._known: defaultdict[Path, dict[str, Answer]] = defaultdict(dict)
        self._read: defaultdict[Path, int] = defaultdict(int)  # bytes of each file that were read

    def get(self, keys: Sequence[str]) -> list[Answer | None]:
        """Return the answers under some keys (see `key_of`), None for what was not asked before."""
        for file in {self._file(key) for key in keys}:
            self._refresh(file)
        return [self._known[self._file(key)].get(key) for key in keys]

    def add(self, answered: Mapping[str, tuple[Question, Answer]]) -> None:
        """Keep answers by their keys."""
        lines: defaultdict[Path, list[dict]] = defaultdict(list)
        for key, (question, answer) in answered.items():
            told = {"key": key, "question": question.text, "answers": list(question.answers)}
            lines[self._file(key)].append(with_check(told | asdict(answer)))
        for file, some in lines.items():
            with locked(file.with_suffix(".lock")):
                append_json_lines(file, some)

    def _file(self, key: str) -> Path:
        return self.folder / f"{key[:2]}.jsonl"

    def _refresh(self, file: Path) -> None:
        """Read the whole lines that were added since the last time."""
        if not file.exists():
            return
        with file.open("rb") as content:
            content.seek(self._read[file])
            added = content.read()
        whole = added[: added.rfind(b"\n") + 1]  # another process may be writing the last line
        self._read[file] += len(whole)
        for line in whole.splitlines():
            if (found := _read_line(line)) is not None:
                self._known[file][found[0]] = found[1]


def key_of(picture: str, question: Question) -> str:
    """Return the key of a question about a picture, which is given by its digest; see `alignbench.images`."""
    asked = "\0".join((question.text, *sorted(question.answers)))
    return f"{picture[:32]}-{hashlib.sha256(asked.encode()).hexdigest()[:32]}"


def _read_line(line: bytes) -> tuple[str, Answer] | None:
    """Return key and answer of a line; None for one that is not as it was written."""
    try:
        record = parse_json(line, "a line")
        if not isinstance(record, dict) or CHECK not in record or not is_intact(record):
            return None
        values = without_check(record)
        check_record(_Line, values, "a line")
    except UserError:
        return None
    return values["key"], Answer(values["probability"], values["blank"], values["likeliest"])
