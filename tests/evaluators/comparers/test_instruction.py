"""What language models answer is read strictly, and what says nothing is asked about once more."""

import hashlib

import pytest

from alignbench.pairwise.comparer import Verdict
from evaluators.comparers.instruction import AGAIN, INSTRUCTION, LABELS, VERSION, InstructedComparer, won_by_word


@pytest.mark.parametrize(
    ("answer", "won"),
    [
        ("A", 1.0),
        (" b.\n", 0.0),
        ("**B**", 0.0),
        ("Image A", 1.0),
        ("Final answer: Image B.", 0.0),
        ("The answer is A", 1.0),
        ("First I look at the cats.\nA has two.\n\nB", 0.0),
        ("A or B", None),
        ("A is better", None),
        ("Both are good.", None),
        ("", None),
        ("C", None),
        ("AB", None),
    ],
)
def test_an_answer_is_a_label_and_little_else(answer, won):
    assert won_by_word(answer) == won


class Mute(InstructedComparer):
    """Answers nothing to the long question, and B to the short one unless the prompt is hopeless."""

    name = "mute"

    def ask(self, first, second, texts):
        return [
            Verdict(None, 0.0, (5, 1), 0.25, "B")
            if "Write only the letter" in text and "hopeless" not in text
            else Verdict(None, None, (50, 7), 1.0, "well")
            for text in texts
        ]


def test_what_was_not_answered_is_asked_once_more_and_costs_both_times():
    found = Mute().compare(["1", "2"], ["3", "4"], ["a cat", "hopeless"])
    assert found == [
        Verdict(None, 0.0, (55, 8), 1.25, "well\n[asked again]\nB"),
        Verdict(None, None, (100, 14), 2.0, "well\n[asked again]\nwell"),
    ]


def test_a_prompt_with_braces_stays_as_it_is():
    for text in (INSTRUCTION, AGAIN):
        assert "{not a field} {labels}" in text.format(prompt="{not a field} {labels}", labels=LABELS)


def test_whoever_changes_a_word_raises_the_version():
    """If this fails: raise VERSION, then put the new digest here."""
    assert (VERSION, hashlib.sha256((INSTRUCTION + AGAIN).encode()).hexdigest()[:12]) == ("1", "21965d7cfb76")
