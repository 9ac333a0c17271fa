"""What people are asked, and how they may answer."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["pairs", "grades"]

TIE = "tie"


@dataclass(frozen=True)
class Question:
    """One thing that is asked of each comparison.

    Attributes:
        name: its name in tables.
        text: what the page asks.
        sees_damage: whether a damaged image is surely the worse one; if not, "no difference" passes the check too.
    """

    name: str
    text: str
    sees_damage: bool = True


@dataclass(frozen=True)
class AnswerChoice:
    """One answer.

    Attributes:
        answer: how votes say it: `left`, `right`, `tie`, or a grade from 1, the worst, to 4.
        label: what its button says.
        key: the key that gives it, as `KeyboardEvent.key` names it.
    """

    answer: str
    label: str
    key: str


@dataclass(frozen=True)
class Preset:
    """A protocol: whether two images are compared or one is graded, what is asked, of how many prompts."""

    kind: Kind
    instructions: str
    questions: tuple[Question, ...]
    num_prompts: int

    @property
    def choices(self) -> tuple[AnswerChoice, ...]:
        return PAIR_CHOICES if self.kind == "pairs" else GRADE_CHOICES


PAIR_CHOICES = (
    AnswerChoice("left", "Left", "ArrowLeft"),
    AnswerChoice(TIE, "No difference", "ArrowDown"),
    AnswerChoice("right", "Right", "ArrowRight"),
)
GRADE_CHOICES = (
    AnswerChoice("1", "Poor", "1"),
    AnswerChoice("2", "Fair", "2"),
    AnswerChoice("3", "Good", "3"),
    AnswerChoice("4", "Excellent", "4"),
)
TOP_GRADE = 4
LOW_GRADES = ("1", "2")

OVERALL = Question("overall", "Which image do you like better, as a picture of this text?")

PRESETS = {
    # user study of SmPO-Diffusion, arXiv 2506.02698: 50 prompts, 6 raters, three questions. It asked for the best of
    # four methods at once; pairs ask the same of any number of methods, and of two images at a time.
    "smpo": Preset(
        "pairs",
        "You will see a text and two images of it. Look at both before you answer; a tap on an image enlarges it. "
        "If you see no difference, say so. Some pairs are there to check that answers are given with attention.",
        (
            OVERALL,
            Question("appeal", "Which image is nicer to look at, whatever the text says?"),
            Question("alignment", "Which image shows better what the text says?", sees_damage=False),
        ),
        num_prompts=50,
    ),
    # human evaluation of SRPO, arXiv 2509.06942: 500 prompts, 125 a category, four grades, share of the highest
    "srpo": Preset(
        "grades",
        "You will see a text and one image of it, and give it four grades, from poor to excellent. A tap on the image "
        "enlarges it. Some images are there to check that answers are given with attention.",
        (
            Question("realism", "How real does the image look: light, surfaces, details, nothing artificial?"),
            Question("aesthetics", "How beautiful is the image: composition, colours, mood?"),
            Question("overall", "How good is the image as a picture of this text, all in all?"),
        ),
        num_prompts=500,
    ),
}  # fmt: skip
