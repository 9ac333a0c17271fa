"""Scores of a table of questions, as TIFA, DSG and DPG have them: the share that is answered rightly.

Source: Hu et al. 2023 (TIFA), arXiv 2303.11897; Cho et al. 2024 (DSG), arXiv 2310.18235; Hu et al. 2024 (ELLA, with
DPG-Bench), arXiv 2403.05135; for the rules about parents dsg/vqa_utils.py of j-min/DSG and
dpg_bench/compute_dpg_bench.py of TencentQQGYLab/ELLA. How a question is put to a model is our own.
"""

from collections.abc import Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Literal, get_args

from alignbench.settings.section import Count
from evaluators.networks.model_folder import Precision
from evaluators.vqa.answers import Answer, Question
from evaluators.vqa.asking import CALIBRATION, AnnotatedAsking, MaxSide
from evaluators.vqa.questioner import chat_questioner
from evaluators.vqa.tables import YES_NO, Item, read_questions

Rule = Literal["dsg", "dpg"]


class TableQuestions(AnnotatedAsking):
    """The share of the questions of a prompt that a vision-language model answers rightly, 0..1.

    A question of yes or no is right if the likeliest next token is the right word, whatever its capitals and blanks; of
    several choices each has a letter, and the likeliest next token has to be the right letter. A question with a parent
    that is wrong counts as wrong.

    Args:
        name: beginning of the name in tables, such as dpg.
        table: file of the questions; see `read_questions`.
        rule: when a parent is wrong; see `with_parents`.
        vlm, max_side: see `AskingEvaluator`.
        source, revision, precision, batch_size: see `chat_questioner`.

    Raises:
        UserError: see `AskingEvaluator` and `chat_questioner`, and `read_questions`.
    """

    def __init__(
        self,
        name: str,
        table: str,
        rule: Rule,
        vlm: str,
        source: str,
        revision: str | None,
        precision: Precision,
        max_side: MaxSide | None,
        batch_size: Count,
    ) -> None:
        if rule not in get_args(Rule):
            raise ValueError(f"rule={rule} is unknown; available: {', '.join(get_args(Rule))}")
        super().__init__(name, vlm, chat_questioner(source, revision, precision, batch_size), max_side)
        self.version = f"1-{rule}"
        self._rule: Rule = rule
        self.table = read_questions(Path(table))
        self.samples = read_questions(CALIBRATION / "questions.jsonl")

    def questions(self, asked: Sequence[Item]) -> list[Question]:
        """Return the questions of a prompt as the model gets them."""
        return [_question(item) for item in asked]

    def judge(self, asked: Sequence[Item], answers: Sequence[Answer]) -> tuple[float, list[dict[str, Any]]]:
        """Return the share of the right answers."""
        right = [answer.likeliest.strip().lower() == _expected(item).lower()
                 for item, answer in zip(asked, answers, strict=True)]  # fmt: skip
        counted = with_parents(asked, right, self._rule)
        told = [
            {"id": item.id, "category": item.category, "right": is_right, "counted": float(is_counted)}
            for item, is_right, is_counted in zip(asked, right, counted, strict=True)
        ]
        return sum(counted) / len(counted), told


def with_parents(items: Sequence[Item], right: Sequence[bool], rule: Rule) -> list[bool]:
    """Return which questions count as right: those answered rightly whose parents are not wrong.

    Args:
        items: the questions of a prompt.
        right: whether each is answered rightly.
        rule: `dsg`: a parent is wrong if its own answer is; `dpg`: if it counts as wrong by then, as the questions are
            gone through in their order, so that a grandchild counts as wrong if its parent stands before it.
    """
    answered = {item.id: is_right for item, is_right in zip(items, right, strict=True)}
    counted = dict(answered)
    for item in items:
        known = counted if rule == "dpg" else answered
        if not all(known[parent] for parent in item.parents):
            counted[item.id] = False
    return [counted[item.id] for item in items]


def _expected(item: Item) -> str:
    """Return the word or the letter with which the right answer begins."""
    if set(item.choices) == set(YES_NO):
        return item.answer
    return ascii_uppercase[item.choices.index(item.answer)]


def _question(item: Item) -> Question:
    expected = _expected(item)
    if set(item.choices) == set(YES_NO):
        text = f"{item.question} Answer yes or no."
        forms = (expected, expected.capitalize())
    else:
        choices = "\n".join(
            f"{letter}. {choice}" for letter, choice in zip(ascii_uppercase, item.choices, strict=False)
        )
        text = f"{item.question}\n{choices}\nAnswer with one letter."
        forms = (expected,)
    return Question(text, tuple(form for word in forms for form in (word, f" {word}")))
