"""Which settings a search varies: the words of Hydra's sweeps, as values that a sampler can draw."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice, product
from typing import TYPE_CHECKING, Any

from alignbench.errors import UserError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
    from optuna.distributions import BaseDistribution

Value = str | int | float
SEARCHED = ("method", "train", "optimizer", "reward", "data", "auxiliary", "memory")  # none changes what is measured
LOG = re.compile(r"log\((.*)\)")  # ours, short for Hydra's tag(log, interval(...))
EXAMPLE = "train.learning_rate='log(1e-6,1e-3)'"
DIGITS = 3  # of a drawn number; more make no difference to training
MOST_CELLS = 100_000  # of a grid; more are more than anybody runs


@dataclass(frozen=True)
class Choice:
    """A setting with some values, each as it is typed."""

    key: str
    values: tuple[str, ...]

    def distribution(self) -> "BaseDistribution":
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.values)

    def word(self, value: Value) -> str:
        return f"{self.key}={value}"

    def default(self, value: Any) -> Value | None:
        """Return the choice that stands for the value of a configuration; None if no choice does."""
        from alignbench.configuration.typed.words import parse_words

        known = ((one, parse_words([self.word(one)])[0].value()) for one in self.values)
        is_truth = isinstance(value, bool)
        return next((one for one, of in known if of == value and isinstance(of, bool) == is_truth), None)

    def rounded(self, value: Value) -> Value:
        return value

    def all_values(self) -> Sequence[Value]:
        return self.values


@dataclass(frozen=True)
class Interval:
    """A number of a range, both ends included.

    Attributes:
        is_log: whether it is drawn evenly in its logarithm.
        is_whole: whether it is a whole number.
        step: between two values; None for any number.
    """

    key: str
    low: float
    high: float
    is_log: bool = False
    is_whole: bool = False
    step: float | None = None

    def distribution(self) -> "BaseDistribution":
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.is_whole:
            return IntDistribution(int(self.low), int(self.high), log=self.is_log, step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.is_log, step=self.step)

    def word(self, value: Value) -> str:
        number = int(value) if self.is_whole else float(value)
        return f"{self.key}={number:.12g}" if self.step is not None else f"{self.key}={number!r}"

    def rounded(self, value: Value) -> Value:
        """Return a drawn value with few digits, as people type it; the ends of the range stay."""
        if self.is_whole or self.step is not None:
            return value
        return min(max(float(f"{float(value):.{DIGITS}g}"), self.low), self.high)

    def default(self, value: Any) -> Value | None:
        """Return the value of a configuration; None if the range does not have it."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return None
        if self.is_whole and value != int(value):
            return None
        steps = 0.0 if self.step is None else (value - self.low) / self.step
        is_on_grid = math.isclose(steps, round(steps), abs_tol=1e-9)
        return (int(value) if self.is_whole else float(value)) if is_on_grid else None

    def all_values(self) -> Sequence[Value]:
        """Return every value.

        Raises:
            UserError: there is no end of them.
        """
        step = self.step if self.step is not None else 1 if self.is_whole else None
        if step is None or self.is_log:
            raise UserError(
                f"search.sampler=grid needs a list of values, and {self.key} has an interval; write "
                f"{self.key}=choice(...), or take search.sampler=tpe"
            )
        count = round((self.high - self.low) / step) + 1
        values = (self.low + number * step for number in range(count))
        return [int(value) if self.is_whole else value for value in values]


Setting = Choice | Interval


@dataclass(frozen=True)
class Space:
    """The settings that a search varies, in the order in which they were typed."""

    settings: tuple[Setting, ...]

    def distributions(self) -> "dict[str, BaseDistribution]":
        return {one.key: one.distribution() for one in self.settings}

    def words(self, values: Mapping[str, Value]) -> list[str]:
        """Return the words of a command with these values, by their keys."""
        return [one.word(values[one.key]) for one in self.settings]

    def cells(self, most: int = MOST_CELLS) -> list[dict[str, Value]]:
        """Return all combinations of values; the last setting changes first.

        Raises:
            UserError: a setting has no end of values.
        """
        keys = [one.key for one in self.settings]
        found = islice(product(*(one.all_values() for one in self.settings)), most)
        return [dict(zip(keys, values, strict=True)) for values in found]

    def corners(self) -> list[list[str]]:
        """Return words by which every choice and both ends of every range are in a command once."""
        columns = [
            [one.word(value) for value in (one.values if isinstance(one, Choice) else (one.low, one.high))]
            for one in self.settings
        ]
        longest = max(map(len, columns))
        return [[column[min(number, len(column) - 1)] for column in columns] for number in range(longest)]

    def record(self) -> list[dict[str, Any]]:
        """Return the space as plain values."""
        return [asdict(one) for one in self.settings]


def split_words(words: Sequence[str]) -> tuple[list[str], Space]:
    """Return the words that all trials share, and the space of the others.

    A word is one of the others if Hydra takes it for a sweep: `choice(...)`, `range(...)`, `interval(...)`,
    `tag(log,interval(...))`, or values with commas. `log(A,B)` is short for `tag(log,interval(A,B))`.

    Raises:
        UserError: a word is not understood, no setting varies, or one that must not vary does.
    """
    from alignbench.configuration.typed.words import parse_words

    fixed, settings = [], {}
    for word in words:
        key, _, value = word.partition("=")
        typed = f"{key}=tag(log,interval({short[1]}))" if (short := LOG.fullmatch(value)) else word
        override = parse_words([typed])[0]
        if not override.is_sweep_override():
            fixed.append(word)
            continue
        root = override.key_or_group.replace("/", ".").partition(".")[0].partition("@")[0]
        if root not in SEARCHED:
            raise UserError(
                f"{word} cannot be searched: all trials must be measured alike, and on prompts of one set; search "
                f"settings of {', '.join(SEARCHED)}"
            )
        if key in settings:
            raise UserError(f"{key} is given twice; give it once")
        settings[key] = _setting(key, word, override)
    if not settings:
        raise UserError(f"no word has values to search; add some, as in {EXAMPLE} or method.beta='choice(250,500)'")
    if twice := next((key for key in settings if any(one.partition("=")[0] == key for one in fixed)), None):
        raise UserError(f"{twice} is given twice; give it once")
    return fixed, Space(tuple(settings.values()))


def _setting(key: str, word: str, override: "Override") -> Setting:
    from hydra.core.override_parser.types import IntervalSweep, RangeSweep

    from alignbench.configuration.typed.words import swept_values

    value = override.value()
    if isinstance(value, IntervalSweep):
        return _interval(key, word, value)
    if isinstance(value, RangeSweep) and not value.shuffle:
        return _range(key, word, value)
    if unknown := getattr(value, "tags", set()) - {"log"}:
        raise UserError(f"{word} has the tag {sorted(unknown)[0]}, which is unknown; the only one is log")
    if getattr(value, "tags", set()):
        raise UserError(f"{word} has the tag log, which is for interval(A,B); leave it out")
    return Choice(key, tuple(dict.fromkeys(swept_values(override))))


def _interval(key: str, word: str, sweep: "IntervalSweep") -> Interval:
    low, high = sweep.start, sweep.end
    if unknown := sweep.tags - {"log"}:
        raise UserError(f"{word} has the tag {sorted(unknown)[0]}, which is unknown; the only one is log")
    if isinstance(low, bool | str) or isinstance(high, bool | str) or low is None or high is None:
        raise UserError(f"{word} is no range of numbers; write it as in {EXAMPLE}")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UserError(f"{word} has no number between its ends; the first must be the smaller one")
    is_log, is_whole = "log" in sweep.tags, isinstance(low, int)
    if is_log and low <= 0:
        raise UserError(f"{word} has no logarithm at {low:g}; begin above 0")
    return Interval(key, low, high, is_log, is_whole)


def _range(key: str, word: str, sweep: "RangeSweep") -> Setting:
    if sweep.tags:
        raise UserError(f"{word} has the tag {sorted(sweep.tags)[0]}, which is for interval(A,B); leave it out")
    if sweep.step == 0:
        raise UserError(f"{word} has the step 0, so it has no end; give another step")
    values = list(islice(sweep.range(), MOST_CELLS))
    if not values:
        raise UserError(
            f"{word} has no values; the second number must be beyond the first in the direction of the step"
        )
    if len(values) == MOST_CELLS:
        raise UserError(f"{word} has {MOST_CELLS:,} values or more; write interval(A,B) or a larger step")
    if len(values) == 1:
        return Choice(key, (str(values[0]),))
    low, high = min(values), max(values)
    is_whole = all(isinstance(value, int) for value in values)
    return Interval(key, low, high, is_whole=is_whole, step=abs(sweep.step))
