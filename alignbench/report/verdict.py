"""Say in one sentence of each method what it gained over base, what that cost elsewhere, and what nobody can tell."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from alignbench.report.columns import TableRow
from alignbench.report.display import TableSection, significant_distance
from alignbench.report.figures import direction, is_data, listed, share_text
from alignbench.report.hacking import BelowBase, Change, changes
from alignbench.report.polls.human import HUMAN, of_people
from alignbench.report.tables import Tables
from alignbench.store.manifest import BASE
from alignbench.store.reward_model_folder import DISTANCE

LEGEND = (
    "A percentage is a win rate: the share of images that an evaluator, or people, prefer to base's image of the same "
    "prompt and noise, ties half; 50 % is a draw. Only significant results count as better or worse."
)
KINDS = {
    "better": "Better than base",
    "mixed": "Better than base on some evaluators, worse on others",
    "worse": "Worse than base",
    "undecided": "Cannot tell",
}

REAL = "real"  # of real images, which are no method and of which the summary says nothing

Kind = Literal["better", "mixed", "worse", "undecided", "real"]


@dataclass(frozen=True)
class Verdict:
    """What is said of a method over base.

    Attributes:
        kind: by the evaluators that it did not train on: it only gains, gains and loses, only loses, or neither; or it
            is no method, but real images.
        of_weights: whether it was trained once, so that another training might have given something else.
        who: the method, and how often it was trained.
        text: the verdict itself.
    """

    model: str
    prompt_set: str
    method: str
    kind: Kind
    of_weights: bool
    who: str
    text: str

    def __str__(self) -> str:
        return f"{self.who}: {self.text}"


def verdicts(tables: Tables, section: TableSection) -> list[Verdict]:
    """Return the verdict on each method of a section that can be compared with base, best mean rank first."""
    moved = changes(tables)
    distance = significant_distance(tables, section.model, section.prompt_set)
    found = []
    for method in section.methods:
        rows = [
            section.rows[method, evaluator]
            for evaluator in section.evaluators
            if (method, evaluator) in section.rows and not evaluator[0].endswith(DISTANCE)
        ]
        compared = [row for row in rows if not math.isnan(row["win_rate_vs_base"])]
        if method != BASE and compared:
            means = {(one.evaluator, one.version): one for one in moved[section.model, section.prompt_set, method]}
            found.append(_verdict(section, method, compared, means, distance))
    return found


def summary(found: Sequence[Verdict], doubtful: Sequence[BelowBase] = ()) -> str:
    """Say in one sentence a kind which methods are better, worse or neither, real images left out; empty for none.

    Args:
        doubtful: evaluators of the section that prefer base to real images.
    """
    methods = [one for one in found if not is_data(one.method)]
    of_kind = {told: [one.method for one in methods if one.kind == kind] for kind, told in KINDS.items()}
    parts = [f"{told}: {listed(names)}." for told, names in of_kind.items() if names]
    if methods and all(one.of_weights for one in methods):
        parts.append("One training seed each, so all this holds for these weights alone.")
    if methods:
        parts.append("Only evaluators that a method did not train on count.")
    if methods and doubtful:
        names = sorted({one.row["evaluator"] for one in doubtful})
        prefers = "they prefer" if len(names) > 1 else "it prefers"
        parts.append(f"Do not trust {listed(names)} here: {prefers} base's images to real ones.")
    return " ".join(parts)


def _verdict(
    section: TableSection,
    method: str,
    rows: Sequence[TableRow],
    means: dict[tuple[str, str], Change],
    distance: float | None,
) -> Verdict:
    where = (section.model, section.prompt_set, method)
    judged = [row for row in rows if not of_people(row["evaluator"])]
    if is_data(method):
        text = "; ".join([*_of_real_images(section, judged), *_by_people(section, rows)])
        return Verdict(*where, REAL, False, _who(method, rows[0]), text)
    held_out = [row for row in judged if not row["trained_on"]]
    trained = [row for row in judged if row["trained_on"]]
    better = [_figure(section, row) for row in held_out if direction(row) > 0]  # a gain by the mean alone is none
    worse = _moved(section, held_out, means, -1)
    also_better = _moved(section, trained, means, 1)
    also_worse = _moved(section, trained, means, -1)
    num_decided = sum(map(len, (better, worse, also_better, also_worse)))
    parts = list(_lead(better, worse, also_better))
    if also_worse:
        parts.append(f"worse even on {listed(also_worse)}, which it trained on")
    if judged and not num_decided:
        parts.append(_cannot_tell(judged, distance))
    elif num_left := len(judged) - num_decided:
        parts.append(f"{num_left} other{'s' * (num_left > 1)} cannot tell")
    parts += _by_people(section, rows)
    parts += filter(None, [_over_start(section, method)])
    if any(_is_of_weights(row) for row in rows) and any("*" in part for part in parts):
        parts.append("this holds for these weights alone")
    kind: Kind = "mixed" if better and worse else "better" if better else "worse" if worse else "undecided"
    of_weights = any(_is_of_weights(row) for row in rows)
    return Verdict(*where, kind, of_weights, _who(method, rows[0]), "; ".join(parts))


def _lead(better: Sequence[str], worse: Sequence[str], also_better: Sequence[str]) -> Iterator[str]:
    """Yield what a method gains, and at what price; gains by what it trained on prove nothing by themselves."""
    price = f", at the price of {listed(worse)}" if worse else ""
    if better:
        yield f"better on {listed(better)}{price}"
        if also_better:
            yield f"also on {listed(also_better)}, which it trained on"
    elif also_better:
        yield f"better only on {listed(also_better)}, which it trained on{price}"
    elif worse:
        yield f"worse on {listed(worse)}, better on none"


def _cannot_tell(rows: Sequence[TableRow], distance: float | None) -> str:
    """Say that nothing is significant, and whether it could have been."""
    if not math.isnan(rows[0]["p_win"]) and rows[0]["num_seeds"] > 1 and distance is not None and distance >= 50:
        return f"cannot tell: with {rows[0]['num_seeds']} training seeds no win rate can be significant here"
    if len(rows) == 1:
        return f"cannot tell: the win rate, {share_text(rows[0])}, does not differ significantly from 50 %"
    return f"cannot tell: none of {len(rows)} win rates differs significantly from 50 %"


def _moved(
    section: TableSection, rows: Sequence[TableRow], means: dict[tuple[str, str], Change], sign: int
) -> list[str]:
    """Tell of gains or losses by the win rate, or by the mean score where the win rate does not show them."""
    changes = ((row, means.get((row["evaluator"], row["version"]))) for row in rows)
    return [f"{_name(section, row)} {change}" for row, change in changes if change and change.direction == sign]


def _of_real_images(section: TableSection, rows: Sequence[TableRow]) -> Iterator[str]:
    """Yield who prefers real images to base's, and who does not: that is a doubt about the evaluator, and no price."""
    above, below = ([_figure(section, row) for row in rows if direction(row) == sign] for sign in (1, -1))
    if above:
        yield f"preferred to base's images by {listed(above)}"
    if below:
        doubted = "these evaluators" if len(below) > 1 else "this evaluator"
        yield f"less preferred by {listed(below)}: a doubt about {doubted}"
    if num_left := len(rows) - len(above) - len(below):
        yield f"{num_left} evaluator{'s' * (num_left > 1)} cannot tell"


def _by_people(section: TableSection, rows: Sequence[TableRow]) -> list[str]:
    return [_people(section, row) for row in rows if of_people(row["evaluator"])]


def _people(section: TableSection, row: TableRow) -> str:
    question = row["evaluator"].removeprefix(HUMAN).removeprefix("_")
    asked = f"people, {question}" if question else "people"
    verdict = {1: "better", -1: "worse", 0: "cannot tell"}[direction(row)]
    return f"{asked}: {verdict}, {share_text(row)}"


def _over_start(section: TableSection, method: str) -> str:
    """Say how a method compares with what its training started from; nothing where that is base."""
    rows = [
        section.over_start[method, evaluator]
        for evaluator in section.evaluators
        if (method, evaluator) in section.over_start and not evaluator[0].endswith(DISTANCE)
    ]
    if not rows:
        return ""
    better, worse = ([_figure(section, row) for row in rows if direction(row) == sign] for sign in (1, -1))
    told = [f"{word} on {listed(of)}" for word, of in (("better", better), ("worse", worse)) if of]
    return f"over its start ({rows[0]['method_b']}): {' and '.join(told) or 'cannot tell'}"


def _who(method: str, row: TableRow) -> str:
    if is_data(method):
        return f"{method} (real images)"
    if _is_of_weights(row) or (row["num_seeds"] > 1 and not math.isnan(row["p_win"])):
        return f"{method} ({row['num_seeds']} training seed{'s' * (row['num_seeds'] > 1)})"
    return method


def _is_of_weights(row: TableRow) -> bool:
    """Whether a method was trained once, so that another training might have given something else."""
    return math.isnan(row["p_win"]) and not math.isnan(row["p_win_weights"])


def _figure(section: TableSection, row: TableRow) -> str:
    return f"{_name(section, row)} {share_text(row)}"


def _name(section: TableSection, row: TableRow) -> str:
    """Name an evaluator as the heads of the tables do, without the arrow."""
    return section.head((row["evaluator"], row["version"])).rpartition(" ")[0]
