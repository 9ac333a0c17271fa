"""The scores of GenEval 2: are its questions about objects, numbers, attributes, positions and verbs answered rightly?

Source: Kamath et al. 2025 (GenEval 2), arXiv 2512.16853; evaluation.py of facebookresearch/GenEval2 (CC BY-NC 4.0), of
which only facts are used. Its prompts and questions do not come with this program.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from alignbench.data.storage.text_tables import TextRow, read_rows
from alignbench.errors import UserError
from alignbench.settings.section import Count
from evaluators.annotations import PromptTable
from evaluators.networks.model_folder import Precision
from evaluators.vqa.answers import Answer, Question
from evaluators.vqa.asking import CALIBRATION, AnnotatedAsking, MaxSide
from evaluators.vqa.questioner import chat_questioner
from evaluators.vqa.tables import Item

Score = Literal["soft_tifa_gm", "soft_tifa_am", "tifa"]

LICENCE = (
    "it is CC BY-NC 4.0 (no commercial use) and does not come with this program; download geneval2_data.jsonl of "
    "github.com/facebookresearch/GenEval2"
)
YES = ("Yes", "yes", " yes", " Yes")
COUNT = "How many"
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def arithmetic_mean(probabilities: Sequence[float]) -> float:
    """Return the mean."""
    return math.fsum(probabilities) / len(probabilities)


def geometric_mean(probabilities: Sequence[float]) -> float:
    """Return the geometric mean; 0 if one probability is 0."""
    if min(probabilities) <= 0:
        return 0.0
    return math.exp(math.fsum(math.log(probability) for probability in probabilities) / len(probabilities))


class GenEval2(AnnotatedAsking):
    """How probable the right answers to the questions of a prompt are, 0..1.

    Args:
        score: `soft_tifa_gm`: geometric mean of the probabilities; `soft_tifa_am`: their mean; `tifa`: share of the
            questions whose likeliest next token is an accepted answer.
        table: geneval2_data.jsonl, which the user has to download.
        count_blank: whether a bare blank as the next token counts as the right answer to a question of number, as in
            the published code with the tokenizer of Qwen; part of the version.
        vlm, max_side: see `AskingEvaluator`.
        source, revision, precision, batch_size: see `chat_questioner`.

    Raises:
        UserError: see `AskingEvaluator` and `chat_questioner`; or the table is not there or another.
    """

    version = "1"

    def __init__(
        self,
        score: Score,
        table: str | None,
        count_blank: bool,
        vlm: str,
        source: str,
        revision: str | None,
        precision: Precision,
        max_side: MaxSide | None,
        batch_size: Count,
    ) -> None:
        if score not in get_args(Score):
            raise ValueError(f"score={score} is unknown; available: {', '.join(get_args(Score))}")
        if table is None or not Path(table).is_file():
            raise UserError(f"{score} needs table, the file of GenEval 2, and table={table} is no file; {LICENCE}")
        super().__init__(score, vlm, chat_questioner(source, revision, precision, batch_size), max_side)
        self.version = "1" if count_blank else "1-no_blank"
        self._score: Score = score
        self._count_blank = count_blank
        self.table = _read(Path(table))
        self.samples = _read(CALIBRATION / "geneval2.jsonl")

    def questions(self, asked: Sequence[Item]) -> list[Question]:
        """Return the questions of a prompt as the model gets them."""
        return [
            Question(
                f"{item.question} Answer in one word.",
                accepted(item.answer) if item.question.startswith(COUNT) else YES,
            )
            for item in asked
        ]

    def judge(self, asked: Sequence[Item], answers: Sequence[Answer]) -> tuple[float, list[dict[str, Any]]]:
        """Return the score, and of each question its skill and what it counts."""
        questions = self.questions(asked)
        counts = [self._count(*pair) for pair in zip(questions, answers, strict=True)]
        mean = geometric_mean if self._score == "soft_tifa_gm" else arithmetic_mean
        told = [{"category": item.category, "counted": count} for item, count in zip(asked, counts, strict=True)]
        return mean(counts), told

    def _count(self, question: Question, answer: Answer) -> float:
        """Return what an answer counts: its probability, or for `tifa` whether it is right."""
        if self._score != "tifa":
            return answer.probability if self._count_blank else max(0.0, answer.probability - answer.blank)
        return float(answer.likeliest.lower() in question.answers)


def accepted(number: str) -> tuple[str, ...]:
    """Return the accepted answers to a question of number: the word and, up to ten, the digits."""
    digits = (str(NUMBERS.index(number) + 1),) if number in NUMBERS else ()
    return tuple(form for word in (number, number.capitalize(), *digits) for form in (word, f" {word}"))


def _read(file: Path) -> PromptTable:
    """Return the questions of each prompt.

    Raises:
        UserError: a line has another layout, or a prompt is there with two sets of questions.
    """
    found: dict[str, tuple[Item, ...]] = {}
    for row in read_rows(file) if file.suffix == ".jsonl" else ():
        items = _items(row)
        if found.setdefault(row.prompt("prompt"), items) != items:
            raise UserError(f"{row.location} is a second annotation of its prompt; keep one of the two")
    if not found:
        raise UserError(f"table={file} has no questions; expected geneval2_data.jsonl")
    return PromptTable(file, found)


def _items(row: TextRow) -> tuple[Item, ...]:
    """Return the questions of a line, whose category is the skill."""
    pairs, skills = row.values.get("vqa_list"), row.values.get("skills")
    if not isinstance(pairs, list) or not isinstance(skills, list) or not pairs or len(pairs) != len(skills):
        raise UserError(f'{row.location} must have lists "vqa_list" and "skills" of one length; expected GenEval 2')
    items = []
    for number, (pair, skill) in enumerate(zip(pairs, skills, strict=True), start=1):
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(one, str) for one in (*pair, skill))):
            raise UserError(f'{row.location} must have pairs of texts in "vqa_list"; expected GenEval 2')
        items.append(Item(str(number), pair[0], answer=pair[1], category=skill))
    return tuple(items)
