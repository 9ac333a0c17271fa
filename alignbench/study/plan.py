"""What each rater is shown, in which order and on which side: draws that study and rater alone decide.

Every rater gets all comparisons of a block of prompts: all prompts, or `prompts_per_rater` of them, so chosen that with
every new rater all prompts are seen equally often, give or take one. The order is random. Of the comparisons of two
methods each is on the left in half, give or take one. Attention checks are spread evenly, so that those who stop early
have met some; the order is cut into as many stretches, and each has a check somewhere.

Two checks are known. `same`, for pairs: an image beside itself, where "no difference" is expected. `damaged`: half of
an image's pixels replaced by random ones; expected is the undamaged image beside it, or one of the two lower grades.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from alignbench.store.manifest import BASE
from alignbench.text import keyed
from alignbench.votes.presets import LOW_GRADES, TIE, Question
from alignbench.votes.record import StudyFolder

Check = Literal["same", "damaged"]


@dataclass(frozen=True)
class ShownImage:
    """An image as it is shown."""

    run: str
    damaged: bool = False


@dataclass(frozen=True)
class Task:
    """What one screen shows: a prompt, and the left and the right image, or one alone.

    Attributes:
        check: None where the vote counts.
    """

    prompt_id: str
    images: tuple[ShownImage, ...]
    check: Check | None = None

    def passes(self, question: Question, answer: str) -> bool | None:
        """Say whether an answer passes the check; None where there is nothing to pass."""
        if self.check is None:
            return None
        if self.check == "same":
            return answer == TIE
        if len(self.images) == 1:
            return answer in LOW_GRADES
        intact = "right" if self.images[0].damaged else "left"
        return answer == intact or (answer == TIE and not question.sees_damage)


def tasks(folder: StudyFolder, rater: int) -> list[Task]:
    """Return all that a rater is shown, in order.

    Args:
        rater: how many raters came before.
    """
    study = folder.study
    prompts = _prompts(study.prompts, study.prompts_per_rater, study.seed, rater)
    if study.protocol.kind == "pairs":
        counting = [task for pair in _pairs(folder) for task in _sided(pair, prompts, study.seed, rater)]
    else:
        counting = [Task(prompt_id, (ShownImage(run),)) for prompt_id in prompts for run in study.runs]
    counting.sort(key=lambda task: keyed(study.seed, "order", rater, task.prompt_id, _names(task)))
    checks = list(_checks(folder, prompts, rater))
    return list(_interspersed(counting, checks, study.seed, rater))


def _prompts(prompts: Sequence[str], num: int | None, seed: int, rater: int) -> list[str]:
    order = sorted(prompts, key=lambda prompt_id: keyed(seed, "blocks", prompt_id))
    start, num = rater * (num or 0), num or len(order)
    return [order[(start + place) % len(order)] for place in range(num)]


def _pairs(folder: StudyFolder) -> list[tuple[str, str]]:
    pairs = list(combinations(folder.study.runs, 2))
    if folder.study.pairs == "all":
        return pairs
    return [pair for pair in pairs if any(folder.manifests[run].method == BASE for run in pair)]


def _sided(pair: tuple[str, str], prompts: Sequence[str], seed: int, rater: int) -> Iterator[Task]:
    """Yield the comparisons of two runs, either on the left in turn along a random order of the prompts."""
    turned = keyed(seed, "first side", rater, pair)[0] % 2
    order = sorted(prompts, key=lambda prompt_id: keyed(seed, "sides", rater, pair, prompt_id))
    for place, prompt_id in enumerate(order):
        left, right = pair if (place + turned) % 2 else pair[::-1]
        yield Task(prompt_id, (ShownImage(left), ShownImage(right)))


def _checks(folder: StudyFolder, prompts: Sequence[str], rater: int) -> Iterator[Task]:
    study = folder.study
    order = sorted(prompts, key=lambda prompt_id: keyed(study.seed, "checks", rater, prompt_id))
    for number in range(study.checks_per_rater):
        draw = keyed(study.seed, "check", rater, number)
        prompt_id, run = order[number % len(order)], study.runs[draw[0] % len(study.runs)]
        if study.protocol.kind == "grades":
            yield Task(prompt_id, (ShownImage(run, damaged=True),), "damaged")
        elif number % 2:
            yield Task(prompt_id, (ShownImage(run), ShownImage(run)), "same")
        else:
            sides = (ShownImage(run), ShownImage(run, damaged=True))
            yield Task(prompt_id, sides if draw[1] % 2 else sides[::-1], "damaged")


def _interspersed(counting: list[Task], checks: list[Task], seed: int, rater: int) -> Iterator[Task]:
    for number, check in enumerate(checks):
        stretch = counting[number * len(counting) // len(checks) : (number + 1) * len(counting) // len(checks)]
        place = int.from_bytes(keyed(seed, "place of check", rater, number)[:8]) % (len(stretch) + 1)
        yield from (*stretch[:place], check, *stretch[place:])
    if not checks:
        yield from counting


def _names(task: Task) -> list[str]:
    return sorted(shown.run for shown in task.images)
