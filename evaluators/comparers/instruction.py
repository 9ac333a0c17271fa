"""What language models are asked about two images, and how their answers are read. The words are our own.

Whoever changes a word raises `VERSION`, since verdicts change with it.
"""

import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from alignbench.pairwise.comparer import Comparer, Verdict

VERSION = "1"
LABELS = ("A", "B")  # of the first and the second image
INTRODUCTIONS = tuple(f"Image {label}:" for label in LABELS)  # before each image
INSTRUCTION = """\
Both images were made by text-to-image models from this prompt:

{prompt}

Which image serves the prompt better? Look first for what the prompt asks for: the objects and how many there are, \
their colours and positions, what happens, written words, and the style. If one image shows more of it, that image is \
better. If both show the same, the better image is the one with fewer visible errors, such as broken bodies, garbled \
letters, noise or blur, and then the more pleasing one. It means nothing which image comes first. One of them must be \
chosen.

Answer with one letter: {labels[0]} or {labels[1]}."""
AGAIN = """\
Prompt: {prompt}

Which of the two images fits this prompt better? Write only the letter {labels[0]} or the letter {labels[1]}."""
# the label alone, or after a few words such as "Answer: Image A."
ANSWER = re.compile(r"\W*(?:(?:final|my|the)?\s*answer\W+(?:is\W+)?)?(?:image\W+)?([AB])\W*", re.IGNORECASE)


class InstructedComparer(Comparer):
    """A language model that sees two images and an instruction; where its answer is none, it is asked once more."""

    def compare(self, first: Sequence[Any], second: Sequence[Any], prompts: Sequence[str]) -> list[Verdict]:
        """Ask about each pair; what was not answered is asked again in fewer words."""
        verdicts = self.ask(first, second, [INSTRUCTION.format(prompt=prompt, labels=LABELS) for prompt in prompts])
        failed = [number for number, verdict in enumerate(verdicts) if verdict.won is None]
        if failed:
            texts = [AGAIN.format(prompt=prompts[number], labels=LABELS) for number in failed]
            others = self.ask([first[number] for number in failed], [second[number] for number in failed], texts)
            for number, other in zip(failed, others, strict=True):
                verdicts[number] = _together(verdicts[number], other)
        return verdicts

    @abstractmethod
    def ask(self, first: Sequence[Any], second: Sequence[Any], texts: Sequence[str]) -> list[Verdict]:
        """Return the answers to texts that follow two preprocessed images each."""


def won_by_word(text: str) -> float | None:
    """Return what an answer says of the first image: 1, 0, or None where it names no image, or reasons to the end.

    The last line with a letter or digit counts, as models that reason answer at the end.

    >>> won_by_word("B"), won_by_word("**Image A.**"), won_by_word("Both are good."), won_by_word("A or B")
    (0.0, 1.0, None, None)
    """
    lines = [line for line in text.splitlines() if re.search(r"\w", line)]
    found = ANSWER.fullmatch(lines[-1]) if lines else None
    return None if found is None else float(found[1].upper() == LABELS[0])


def _together(first: Verdict, again: Verdict) -> Verdict:
    """Return the second verdict with the cost and the words of both."""
    tokens = (first.tokens[0] + again.tokens[0], first.tokens[1] + again.tokens[1])
    raw = f"{first.raw}\n[asked again]\n{again.raw}"
    return replace(again, tokens=tokens, seconds=first.seconds + again.seconds, raw=raw)
