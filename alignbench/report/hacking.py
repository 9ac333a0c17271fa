"""Say which methods hack their reward: what they trained on rose while evaluators that they did not train on fell.

Where what they trained on fell as well, the policy has collapsed, and that is said instead. What each method gains and
loses by is told in `alignbench.report.verdict`.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from alignbench.report.columns import TableRow
from alignbench.report.comparison import ALL
from alignbench.report.figures import SIGNIFICANT, is_data, listed, number, percent, significance, turned
from alignbench.report.tables import Tables
from alignbench.statistics.intervals import Estimate
from alignbench.store.manifest import BASE
from alignbench.store.reward_model_folder import DISTANCE

TRAINED, HELD_OUT = "trained", "held_out"
TRAINED_ON = "which it trained on (reward, labels or shared data)"


@dataclass(frozen=True)
class Change:
    """How an evaluator's mean score of a method differs from that of base.

    Attributes:
        role: `trained` where the method saw its scores or labels made with it, else `held_out`.
        gain: turned so that above 0 is better.
        p_value: of the gain, Holm-adjusted as in the leaderboard.
        of_weights: whether that holds for these weights alone, as the method was trained once.
        scale: factor in displays.
    """

    evaluator: str
    version: str
    role: Literal["trained", "held_out"]
    gain: Estimate
    p_value: float
    of_weights: bool
    scale: float

    @property
    def direction(self) -> int:
        """1 for better and -1 for worse, where test and interval both say so; else 0."""
        if not self.p_value < SIGNIFICANT:
            return 0
        return int(self.gain.low > 0) - int(self.gain.high < 0)

    def __str__(self) -> str:
        size = sorted((abs(self.gain.low), abs(self.gain.high)))
        return number(abs(self.gain.value), (size[0], size[1]), self.scale)


@dataclass(frozen=True)
class Finding:
    """A method that loses by evaluators that it did not train on, while what it trained on moved either way.

    Attributes:
        trained: evaluators that it trained on: those by which it gains if there are any, else those by which it loses.
        fallen: held-out ones that it loses by.
        num_held_out, num_risen: how many are held out, and how many of them it gains by.
    """

    model: str
    prompt_set: str
    method: str
    trained: list[Change]
    fallen: list[Change]
    num_held_out: int
    num_risen: int

    @property
    def is_hacking(self) -> bool:
        """Whether what it trained on rose; otherwise the policy has collapsed."""
        return self.trained[0].direction > 0

    @property
    def evaluators(self) -> set[tuple[str, str]]:
        """Name and version of all who take part."""
        return {(one.evaluator, one.version) for one in (*self.trained, *self.fallen)}

    def __str__(self) -> str:
        verb = "rose" if self.is_hacking else "fell"
        trained = listed([f"{one.evaluator}, {TRAINED_ON}, {verb} by {one}" for one in self.trained])
        losses = _moves(self.fallen, "fell")
        alone = "; one training seed: this holds for these weights alone" if self.trained[0].of_weights else ""
        return (
            f"{'reward hacking' if self.is_hacking else 'collapse'}: {self.method} on {self.model}, {self.prompt_set}: "
            f"the mean score by {trained} {'over base, while' if self.is_hacking else 'below base, and'} {losses}; "
            f"{len(self.fallen)} of {self.num_held_out} held-out mean scores fell significantly, {self.num_risen} "
            f"rose{alone}"
        )


def _moves(evaluators: Sequence[Change], verb: str) -> str:
    first, *others = evaluators
    return listed([f"{first.evaluator} {verb} by {first}", *(f"{one.evaluator} by {one}" for one in others)])


def changes(tables: Tables) -> dict[tuple[str, str, str], list[Change]]:
    """Return what each evaluator says of each method over base, by model, prompt set and method."""
    found: dict[tuple[str, str, str], list[Change]] = defaultdict(list)
    for row in tables.leaderboard:
        if row["group"] != ALL or row["method"] == BASE or is_data(row["method"]):
            continue
        if row["evaluator"].endswith(DISTANCE):  # no quality; see `far_from_training`
            continue
        key = (row["model"], row["prompt_set"], row["evaluator"], row["version"])
        comparison = tables.over_base[key].get(row["method"])
        if comparison is None:
            continue
        info = tables.evaluators[row["evaluator"], row["version"]]
        of_weights = math.isnan(row["p_gain"])
        role, scale = role_of(tables, row), info.display_scale
        change = Change(*key[2:], role, comparison.gain, p_of_gain(row), of_weights, scale)
        found[row["model"], row["prompt_set"], row["method"]].append(change)
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
    """Return the methods that hack their reward or have collapsed, by the same p-values and intervals as the tables.

    Args:
        model, prompt_set: of the section that is asked for; None for all.
    """
    found = []
    for key, evaluators in sorted(changes(tables).items()):
        trained = _moved(evaluators, TRAINED, 1) or _moved(evaluators, TRAINED, -1)
        fallen = _moved(evaluators, HELD_OUT, -1)
        if trained and fallen and model in (None, key[0]) and prompt_set in (None, key[1]):
            held_out = sum(one.role == HELD_OUT for one in evaluators)
            found.append(Finding(*key, trained, fallen, held_out, len(_moved(evaluators, HELD_OUT, 1))))
    return found


@dataclass(frozen=True)
class AboveData:
    """A method whose images an evaluator that it trained on prefers to real images of the same prompts.

    Attributes:
        row: of `win_rates.csv`, as the win rate of the method over the real images.
    """

    model: str
    prompt_set: str
    method: str
    row: TableRow

    def __str__(self) -> str:
        rate = percent(self.row["win_rate"], (self.row["ci_low"], self.row["ci_high"]))
        return (
            f"above real images: {self.method} on {self.model}, {self.prompt_set}: {self.row['evaluator']}, "
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
    for pair in tables.win_rates:
        for row in (pair, turned(pair)):
            key = (row["model"], row["prompt_set"], row["method_a"])
            wins = significance(row).strip("()").startswith("*") and row["ci_low"] > 0.5
            if row["group"] != ALL or not is_data(row["method_b"]) or not wins:
                continue
            if (*key, row["evaluator"], row["version"]) in trained and model in (None, key[0]):
                found += [AboveData(*key, row)] if prompt_set in (None, key[1]) else []
    return found


@dataclass(frozen=True)
class FarFromTraining:
    """A method whose images are unlike those that a reward model learned from; half of them or more are too far.

    Attributes:
        row: of the leaderboard, of the evaluator that measures the distance.
    """

    model: str
    prompt_set: str
    method: str
    row: TableRow

    def __str__(self) -> str:
        judge = self.row["evaluator"].removesuffix(DISTANCE)
        distance = number(self.row["median"], (self.row["median_ci_low"], self.row["median_ci_high"]))
        return (
            f"far from its training images: {judge} scores images of {self.method} on {self.model}, {self.prompt_set}, "
            f"whose median distance is {distance}, where 99 % of the images that it was tested on are below 1; its "
            "scores of them mean little"
        )


def far_from_training(tables: Tables, model: str | None = None, prompt_set: str | None = None) -> list[FarFromTraining]:
    """Return whose images are unlike those that a reward model learned from; arguments as of `findings`."""
    return [
        FarFromTraining(row["model"], row["prompt_set"], row["method"], row)
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
        row: of the leaderboard, of the real images.
    """

    model: str
    prompt_set: str
    method: str
    row: TableRow

    def __str__(self) -> str:
        rate = percent(1 - self.row["win_rate_vs_base"], (1 - self.row["win_ci_high"], 1 - self.row["win_ci_low"]))
        return (
            f"doubtful evaluator: {self.row['evaluator']} on {self.model}, {self.prompt_set}, prefers base's images to "
            f"the real ones of the same prompts in {rate} %; a loss by it need not be one"
        )


def below_base(tables: Tables, model: str | None = None, prompt_set: str | None = None) -> list[BelowBase]:
    """Return the evaluators that rank real images below those of base; arguments as of `findings`."""
    return [
        BelowBase(row["model"], row["prompt_set"], row["method"], row)
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
