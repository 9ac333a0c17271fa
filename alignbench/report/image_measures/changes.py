"""Say how the images of a method have changed while its reward rose: a warning to look at them, whichever way it is."""

from collections.abc import Sequence
from dataclasses import dataclass

from alignbench.report.figures import SIGNIFICANT, listed, stars
from alignbench.report.hacking import TRAINED, TRAINED_ON, Change, changes
from alignbench.report.image_measures.figures import Figure
from alignbench.report.tables import Tables


@dataclass(frozen=True)
class ImagesChanged:
    """A method that gains by what it trained on, and measures of its images that differ significantly from base's.

    Attributes:
        where: the model and the prompt set in words.
        risen: evaluators that it trained on and gains by.
        moved: statistics and measures of sets that are higher or lower.
    """

    method: str
    where: str
    risen: list[Change]
    moved: list[Figure]

    def __str__(self) -> str:
        gains = listed([f"{one.evaluator} {one}" for one in self.risen])
        parts = []
        for word, sign in (("higher", 1), ("lower", -1)):
            told = [_told(one) for one in self.moved if sign * one.difference.value > 0]
            parts += [f"{word} in {listed(told)}"] if told else []
        return (
            f"changed images: {self.method} on {self.where}: better on {gains}, {TRAINED_ON}, while its images are "
            f"{' and '.join(parts)}; look at them before you believe the gain"
        )


def _told(figure: Figure) -> str:
    return f"{figure.measure} ({figure.value.value:.3g}, base {figure.base:.3g}, {stars(figure.p)})"


def images_changed(tables: Tables, model: str, prompt_set: str, figures: Sequence[Figure]) -> list[ImagesChanged]:
    """Return the methods of a section whose images changed while a trained-on evaluator rose.

    Args:
        figures: of the images of all methods of the section, with Holm's p-values over all of them.
    """
    found = []
    for (*section, method), evaluators in changes(tables).items():
        if section != [model, prompt_set]:
            continue
        risen = [one for one in evaluators if one.role == TRAINED and one.direction > 0]
        moved = [one for one in figures if one.label == method and _is_significant(one)]
        if risen and moved:
            found.append(ImagesChanged(method, tables.where(model, prompt_set), risen, moved))
    return found


def _is_significant(figure: Figure) -> bool:
    """Say whether test and interval both find a difference, in whichever direction."""
    return figure.p < SIGNIFICANT and not figure.difference.low <= 0 <= figure.difference.high
