"""Two answers about one pair of images, one in each order: what they come to, and how far the position decided.

With the log-odds l1 of the first image a before b, and l2 of the first image b before a, a is better by (l1 - l2) / 2,
and (l1 + l2) / 2 is what the first place is worth: a bias that adds to the log-odds cancels exactly in the former.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from alignbench.pairwise.comparer import Verdict
from alignbench.statistics.intervals import mean
from alignbench.statistics.resampling import NUM_RESAMPLES, Estimate, Resampling

UNBIASED = (0.4, 0.6)  # the share of answers for the first image beyond which the position decides too much
MAX_FAILED = 0.05  # share of pairs beyond which what is left says little about all
NOTHING = Estimate(float("nan"), float("nan"), float("nan"))


@dataclass(frozen=True)
class JudgedPair:
    """All that a comparer said about images a and b of one prompt.

    Attributes:
        a_first, b_first: the verdict in each order, about the image that came first; None where it was not asked for.
        is_one_image: whether a and b are the same image, which is a tie that nobody was asked about.
    """

    prompt: str
    a_first: Verdict | None
    b_first: Verdict | None
    is_one_image: bool = False

    @property
    def verdicts(self) -> list[Verdict]:
        return [one for one in (self.a_first, self.b_first) if one is not None]

    @property
    def failed(self) -> bool:
        """Whether an answer said nothing; the other order alone would be biased by the position."""
        return any(one.won is None for one in self.verdicts)

    @property
    def won(self) -> float | None:
        """1 where a is better, 0 where b is, 0.5 for a tie; None for a failure."""
        if self.failed:
            return None
        if self.a_first is None or self.b_first is None:
            won = self.verdicts[0].won
            assert won is not None
            return won if self.b_first is None else 1 - won
        if self.quality is not None:
            return 0.5 + 0.5 * ((self.quality > 0) - (self.quality < 0))
        assert self.a_first.won is not None
        assert self.b_first.won is not None
        return (self.a_first.won + 1 - self.b_first.won) / 2

    @property
    def quality(self) -> float | None:
        """By how much a is better, in log-odds; None where an order or its log-odds are absent."""
        odds = self._log_odds
        return odds and (odds[0] - odds[1]) / 2

    @property
    def position(self) -> float | None:
        """What the first place is worth, in log-odds; None as for `quality`."""
        odds = self._log_odds
        return odds and (odds[0] + odds[1]) / 2

    @property
    def _log_odds(self) -> tuple[float, float] | None:
        if self.a_first is None or self.b_first is None:
            return None
        first, second = self.a_first.log_odds, self.b_first.log_odds
        return None if first is None or second is None else (first, second)


@dataclass(frozen=True)
class PositionBias:
    """How far the order of two images decided, and what went wrong.

    Shares are NaN where nothing is known of them.

    Attributes:
        calls: answers, failures included.
        pairs: of images, failures included.
        failures: pairs with an answer that said nothing; they are left out of all else.
        ties: pairs of which neither image is better.
        first_rate: share of answers that preferred the first image, ties half; 0.5 without bias.
        consistent: of pairs asked in both orders, the share with the same answer in both.
        always_first, always_second: of these pairs, the share where the first, or the second, was preferred twice.
        log_odds: what the first place is worth; the interval is over prompts.
        tokens: read and written.
    """

    calls: int
    pairs: int
    failures: int
    ties: int
    first_rate: float
    consistent: float
    always_first: float
    always_second: float
    log_odds: Estimate
    tokens: tuple[int, int]
    seconds: float

    @property
    def failed_share(self) -> float:
        return self.failures / self.pairs if self.pairs else 0.0

    @property
    def fails_often(self) -> bool:
        """Whether so many pairs failed that figures over the others are shown nowhere."""
        return self.failed_share > MAX_FAILED

    @property
    def is_biased(self) -> bool:
        """Whether the position decides too often."""
        return self.first_rate < UNBIASED[0] or self.first_rate > UNBIASED[1]

    @property
    def warning(self) -> str:
        """What is said of a comparer that goes by the position; empty of others."""
        if not self.is_biased:
            return ""
        side = "first" if self.first_rate > 0.5 else "second"
        remedy = (
            "asking in one random order makes this noise" if np.isnan(self.consistent) else "both orders cancel this"
        )
        return f"it prefers the {side} image too often, whatever it shows; {remedy}"

    def __str__(self) -> str:
        """Write the figures as the program prints them."""
        parts = [f"{self.pairs} comparisons in {self.calls} calls"]
        if not np.isnan(self.first_rate):
            parts.append(f"the first image preferred in {100 * self.first_rate:.1f} % of calls (unbiased: 50 %)")
        if not np.isnan(self.consistent):
            parts.append(f"both orders agree on {100 * self.consistent:.1f} %")
        return ", ".join([*parts, f"ties {self.ties}, failures {self.failures} ({100 * self.failed_share:.1f} %)"])


def position_bias(pairs: Iterable[JudgedPair], num_resamples: int = NUM_RESAMPLES) -> PositionBias:
    """Return how far the order decided, over pairs of different images."""
    pairs = [pair for pair in pairs if not pair.is_one_image]
    verdicts = [one for pair in pairs for one in pair.verdicts]
    answered = [pair for pair in pairs if not pair.failed]
    first = [one.won for pair in answered for one in pair.verdicts if one.won is not None]
    both = np.array(
        [(pair.a_first.won, pair.b_first.won) for pair in answered if pair.a_first and pair.b_first], dtype=np.float64
    ).reshape(-1, 2)
    worth = [(pair.position, pair.prompt) for pair in answered if pair.position is not None]
    log_odds = NOTHING
    if worth:
        values, prompts = zip(*worth, strict=True)
        log_odds = mean(values, Resampling(prompts, num_resamples))
    return PositionBias(
        calls=len(verdicts),
        pairs=len(pairs),
        failures=len(pairs) - len(answered),
        ties=sum(pair.won == 0.5 for pair in answered),
        first_rate=_share(np.array(first)),
        consistent=_share(both.sum(axis=1) == 1),
        always_first=_share((both == 1).all(axis=1)),
        always_second=_share((both == 0).all(axis=1)),
        log_odds=log_odds,
        tokens=(sum(one.tokens[0] for one in verdicts), sum(one.tokens[1] for one in verdicts)),
        seconds=sum(one.seconds for one in verdicts),
    )


def _share(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
