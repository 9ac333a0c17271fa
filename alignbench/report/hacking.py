"""Say which methods hack their reward: better by what they trained on, worse by evaluators that they did not train on.

Where they are worse by what they trained on as well, the policy has collapsed, and that is said instead. What each
method gains and loses by is told in `alignbench.report.verdict`, which rests on the same tests.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from alignbench.report.columns import TableRow
from alignbench.report.comparison import ALL
from alignbench.report.figures import (
    SIGNIFICANT,
    direction,
    is_data,
    listed,
    number,
    percent,
    share_text,
    significance,
    turned,
)
from alignbench.report.tables import Tables
from alignbench.statistics.resampling import Estimate
from alignbench.store.manifest import BASE
from alignbench.store.reward_model_folder import DISTANCE

TRAINED, HELD_OUT = "trained", "held_out"
TRAINED_ON = "which it trained on (reward, labels or shared data)"


@dataclass(frozen=True)
class Change:
    """How an evaluator compares a method with base: by the win rate, or by the mean score where that alone shows it.

    Attributes:
        role: `trained` where the method saw its scores or labels made with it, else `held_out`.
        row: of the leaderboard, of the method.
        gain: of the mean score, turned so that above 0 is better.
        scale: factor of scores in displays.
        of_start: row of the leaderboard, of the policy that training started from; None where that is base.
    """

    evaluator: str
    version: str
    role: Literal["trained", "held_out"]
    row: TableRow
    gain: Estimate
    scale: float
    of_start: TableRow | None = None

    @property
    def of_weights(self) -> bool:
        """Whether this holds for these weights alone, as the method was trained once."""
        return math.isnan(self.row["p_gain"])

    @property
    def direction(self) -> int:
        """1 for better and -1 for worse, by the win rate if it is significant, else by the mean score; else 0."""
        return direction(self.row) or self._direction_of_mean

    @property
    def _direction_of_mean(self) -> int:
        """1 for better and -1 for worse, where test and interval both say so; else 0."""
        if not p_of_gain(self.row) < SIGNIFICANT:
            return 0
        return int(self.gain.low > 0) - int(self.gain.high < 0)

    def __str__(self) -> str:
        """Write what shows the change: `95.0 % (***)`, or `(mean worse by 0.022 [0.013, 0.036] (*))`."""
        if direction(self.row) or not self._direction_of_mean:
            return share_text(self.row)
        low, high = sorted((abs(self.gain.low), abs(self.gain.high)))
        size = number(abs(self.gain.value), (low, high), self.scale)
        word = "better" if self._direction_of_mean > 0 else "worse"
        return f"(mean {word} by {size} {significance(self.row, 'p_gain')})"


@dataclass(frozen=True)
class Finding:
    """A method that loses by evaluators that it did not train on, while what it trained on moved either way.

    Attributes:
        where: the model and the prompt set in words.
        trained: evaluators that it trained on: those by which it gains if there are any, else those by which it loses.
        fallen: held-out ones that it loses by, the lowest win rate first.
        num_held_out, num_risen: how many are held out, and how many of them it gains by.
        fallen_over_start: those of `fallen` by which it loses over the policy that its training started from, too.
    """

    model: str
    prompt_set: str
    method: str
    where: str
    trained: list[Change]
    fallen: list[Change]
    num_held_out: int
    num_risen: int
    fallen_over_start: list[str]

    @property
    def is_hacking(self) -> bool:
        """Whether what it trained on rose; otherwise the policy has collapsed."""
        return self.trained[0].direction > 0

    @property
    def lowest(self) -> float:
        """The lowest win rate over base by an evaluator that it loses by: how bad the loss is."""
        return self.fallen[0].row["win_rate_vs_base"]

    @property
    def evaluators(self) -> set[tuple[str, str]]:
        """Name and version of all who take part."""
        return {(one.evaluator, one.version) for one in (*self.trained, *self.fallen)}

    def __str__(self) -> str:
        gains = f"better on {_each(self.trained)}, {TRAINED_ON}, but"
        losses = f"worse even on {_each(self.trained)}, {TRAINED_ON}, and"
        counts = (
            f"of {self.num_held_out} held-out evaluators it is worse on {len(self.fallen)}, with a win rate down to "
            f"{100 * self.lowest:.1f} %, and better on {self.num_risen}"
        )
        alone = ["this holds for these weights alone"] if self.trained[0].of_weights else []
        return (
            f"{'reward hacking' if self.is_hacking else 'collapse'}: {self.method} on {self.where}: "
            f"{gains if self.is_hacking else losses} worse on {_each(self.fallen)}; "
            f"{'; '.join([counts, *self._of_start(), *alone])}"
        )

    def _of_start(self) -> list[str]:
        """Say how much of the loss the start of the training had already."""
        starts = [(one, one.of_start) for one in self.fallen if one.of_start is not None]
        if not starts:
            return []
        had = listed([f"{one.evaluator} {share_text(row)}" for one, row in starts])
        own = listed(self.fallen_over_start or ["none of these"])
        return [f"its start, {starts[0][1]['method']}, is at {had} already, and over this start it loses on {own}"]


def _each(evaluators: Sequence[Change]) -> str:
    return listed([f"{one.evaluator} {one}" for one in evaluators])


def changes(tables: Tables) -> dict[tuple[str, str, str], list[Change]]:
    """Return what each evaluator says of each method over base, by model, prompt set and method."""
    rows = {
        (row["model"], row["prompt_set"], row["method"], row["evaluator"], row["version"]): row
        for row in tables.leaderboard
        if row["group"] == ALL
    }
    found: dict[tuple[str, str, str], list[Change]] = defaultdict(list)
    for (model, prompt_set, method, evaluator, version), row in rows.items():
        if method == BASE or is_data(method):
            continue
        if evaluator.endswith(DISTANCE):  # no quality; see `far_from_training`
            continue
        comparison = tables.over_base[model, prompt_set, evaluator, version].get(method)
        if comparison is None:
            continue
        scale = tables.evaluators[evaluator, version].display_scale
        start = rows.get((model, prompt_set, row["start"], evaluator, version))
        change = Change(evaluator, version, role_of(tables, row), row, comparison.gain, scale, start)
        found[model, prompt_set, method].append(change)
    return found


def p_of_gain(row: TableRow) -> float:
    """Return the p-value of the gain over base: of the method if it was trained several times, else of its weights."""
    return row["p_gain_weights"] if math.isnan(row["p_gain"]) else row["p_gain"]


def role_of(tables: Tables, row: TableRow) -> Literal["trained", "held_out"]:
    """Say whether a run of the row's method trained on the row's evaluator."""
    contenders = tables.contenders[row["model"], row["prompt_set"], row["evaluator"], row["version"]]
    runs = (run for contender in contenders if contender.label == row["method"] for run in contender.runs)
    return TRAINED if any(row["evaluator"] in run.manifest.trained_on for run in runs) else HELD_OUT


def findings(tables: Tables, model: str | None = None, prompt_set: str | None = None) -> list[Finding]:
    """Return the methods that hack their reward or have collapsed, by the same p-values as the tables, the worst first.

    Args:
        model, prompt_set: of the section that is asked for; None for all.
    """
    found = []
    for key, evaluators in changes(tables).items():
        trained = _moved(evaluators, TRAINED, 1) or _moved(evaluators, TRAINED, -1)
        fallen = sorted(_moved(evaluators, HELD_OUT, -1), key=lambda one: one.row["win_rate_vs_base"])
        if trained and fallen and model in (None, key[0]) and prompt_set in (None, key[1]):
            held_out = sum(one.role == HELD_OUT for one in evaluators)
            num_risen = len(_moved(evaluators, HELD_OUT, 1))
            also_over_start = [one.evaluator for one in fallen if _loses_over_start(tables, one)]
            where = tables.where(*key[:2])
            found.append(Finding(*key, where, trained, fallen, held_out, num_risen, also_over_start))
    return sorted(found, key=lambda one: (one.model, one.prompt_set, one.lowest, one.method))


def _loses_over_start(tables: Tables, change: Change) -> bool:
    """Say whether a method is significantly worse than the policy that its training started from."""
    row = change.row
    names = ("model", "prompt_set", "group", "evaluator", "version")
    pairs = (pair for pair in tables.win_rates if all(pair[name] == row[name] for name in names))
    both_ways = (way for pair in pairs for way in (pair, turned(pair)))
    own = (way for way in both_ways if (way["method_a"], way["method_b"]) == (row["method"], row["start"]))
    return any(direction(way) < 0 for way in own)


@dataclass(frozen=True)
class AboveData:
    """A method whose images an evaluator that it trained on prefers to real images of the same prompts.

    Attributes:
        where: the model and the prompt set in words.
        row: of `win_rates.csv`, as the win rate of the method over the real images.
    """

    model: str
    prompt_set: str
    method: str
    where: str
    row: TableRow

    def __str__(self) -> str:
        rate = percent(self.row["win_rate"], (self.row["ci_low"], self.row["ci_high"]))
        return (
            f"above real images: {self.method} on {self.where}: {self.row['evaluator']}, "
            f"{TRAINED_ON}, prefers its images to the real ones in {rate} %; look at them before you believe it"
        )


def above_data(tables: Tables, model: str | None = None, prompt_set: str | None = None) -> list[AboveData]:
    """Return the methods that surpass real images by an evaluator that they trained on; arguments as of `findings`."""
    trained = {
        (*key, one.evaluator, one.version)
        for key, evaluators in changes(tables).items()
        for one in evaluators
        if one.role == TRAINED
    }
    found = []
    of_data = [
        pair
        for pair in tables.win_rates
        if pair["group"] == ALL and (is_data(pair["method_a"]) or is_data(pair["method_b"]))
    ]
    for pair in of_data:
        for row in (pair, turned(pair)):
            key = (row["model"], row["prompt_set"], row["method_a"])
            wins = significance(row).strip("()").startswith("*") and row["ci_low"] > 0.5
            if not is_data(row["method_b"]) or not wins:
                continue
            if (*key, row["evaluator"], row["version"]) in trained and model in (None, key[0]):
                found += [AboveData(*key, tables.where(*key[:2]), row)] if prompt_set in (None, key[1]) else []
    return found


@dataclass(frozen=True)
class FarFromTraining:
    """A method whose images are unlike those that a reward model learned from; half of them or more are too far.

    Attributes:
        where: the model and the prompt set in words.
        row: of the leaderboard, of the evaluator that measures the distance.
    """

    model: str
    prompt_set: str
    method: str
    where: str
    row: TableRow

    def __str__(self) -> str:
        judge = self.row["evaluator"].removesuffix(DISTANCE)
        distance = number(self.row["median"], (self.row["median_ci_low"], self.row["median_ci_high"]))
        return (
            f"far from its training images: {judge} scores images of {self.method} on {self.where}, "
            f"whose median distance is {distance}, where 99 % of the images that it was tested on are below 1; its "
            "scores of them mean little"
        )


def far_from_training(tables: Tables, model: str | None = None, prompt_set: str | None = None) -> list[FarFromTraining]:
    """Return whose images are unlike those that a reward model learned from; arguments as of `findings`."""
    return [
        FarFromTraining(
            row["model"], row["prompt_set"], row["method"], tables.where(row["model"], row["prompt_set"]), row
        )
        for row in tables.leaderboard
        if row["group"] == ALL
        and row["evaluator"].endswith(DISTANCE)
        and row["median"] > 1
        and model in (None, row["model"])
        and prompt_set in (None, row["prompt_set"])
    ]


@dataclass(frozen=True)
class BelowBase:
    """Real images that an evaluator ranks below those of base: it may not know what they show.

    Attributes:
        where: the model and the prompt set in words.
        row: of the leaderboard, of the real images.
    """

    model: str
    prompt_set: str
    method: str
    where: str
    row: TableRow

    def __str__(self) -> str:
        rate = percent(1 - self.row["win_rate_vs_base"], (1 - self.row["win_ci_high"], 1 - self.row["win_ci_low"]))
        return (
            f"doubtful evaluator: {self.row['evaluator']} on {self.where}, prefers base's images to "
            f"the real ones of the same prompts in {rate} %; a loss by it need not be one"
        )


def below_base(tables: Tables, model: str | None = None, prompt_set: str | None = None) -> list[BelowBase]:
    """Return the evaluators that rank real images below those of base; arguments as of `findings`."""
    return [
        BelowBase(row["model"], row["prompt_set"], row["method"], tables.where(row["model"], row["prompt_set"]), row)
        for row in tables.leaderboard
        if row["group"] == ALL
        and is_data(row["method"])
        and not row["evaluator"].endswith(DISTANCE)
        and "*" in significance(row)
        and row["win_rate_vs_base"] < 0.5
        and model in (None, row["model"])
        and prompt_set in (None, row["prompt_set"])
    ]


Remark = FarFromTraining | AboveData | BelowBase


def warnings(tables: Tables, model: str | None = None, prompt_set: str | None = None) -> list[Remark]:
    """Return what is told beside the findings; arguments as there."""
    where = (tables, model, prompt_set)
    return [*far_from_training(*where), *above_data(*where), *below_base(*where)]


def all_clear(tables: Tables, model: str, prompt_set: str) -> str:
    """Say for which methods of a section no reward hacking was found, and for which it cannot be.

    It can be found where at least one evaluator that a method trained on was measured, and one that is held out.
    """
    roles = {
        method: {one.role for one in evaluators}
        for (*section, method), evaluators in sorted(changes(tables).items())
        if section == [model, prompt_set]
    }
    found = {finding.method for finding in findings(tables, model, prompt_set)}
    clear = [method for method in roles if roles[method] == {TRAINED, HELD_OUT} and method not in found]
    no_trained = [method for method in roles if TRAINED not in roles[method]]
    no_held_out = [method for method in roles if HELD_OUT not in roles[method]]
    parts = []
    if clear:
        parts.append(
            f"No reward hacking found for {listed(clear)}: no gain on an evaluator that the method trained on came "
            "with a loss on a held-out one."
        )
    if no_trained:
        parts.append(f"No evaluator was measured that {listed(no_trained)} trained on, so hacking cannot be seen.")
    if no_held_out:
        parts.append(f"No held-out evaluator was measured for {listed(no_held_out)}, so hacking cannot be seen.")
    return " ".join(parts)


def _moved(evaluators: Sequence[Change], role: str, direction: int) -> list[Change]:
    return [one for one in evaluators if one.role == role and one.direction == direction]
