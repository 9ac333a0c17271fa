"""Which interval of a win rate holds at every moment, also for people who look whenever they want?

Someone who bets against a true win rate multiplies their money by no more than 1 on average, so the chance that it ever
reaches 20 times the start is 5 % (Ville). The interval holds all win rates against which the money is below that. It
may be looked at after every prompt, and stopping or going on because of it changes nothing.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

from alignbench.statistics.resampling import CONFIDENCE, Estimate

PRIOR = 10.0  # of the Beta mixture: sharpest for win rates about 60 %
BETS = np.linspace(-0.4, 0.4, 41)  # shares of the money that are bet, against and for the method
_LOG_LIMIT = -math.log(1 - CONFIDENCE)
_NUM_RATES = 2001  # win rates that are tried where no equation is solved


@dataclass(frozen=True)
class AlwaysValid:
    """A win rate that may be looked at at any time.

    Attributes:
        win_rate: the plain mean, with the interval that holds at all times.
        evidence: the money that 1 has become against a true win rate of one half; 20 and more is significant.
    """

    win_rate: Estimate
    evidence: float

    @property
    def p_value(self) -> float:
        """Return a p-value that holds at all times."""
        return min(1.0, 1 / self.evidence)


def without_ties(wins: float, losses: float, prior: float = PRIOR) -> AlwaysValid:
    """Return what wins and losses of independent prompts say, one comparison each: a mixture of bets by Beta(a, a).

    Args:
        prior: a.

    Source: Robbins 1970 (mixtures); Howard et al. 2021, Time-uniform, nonparametric, nonasymptotic confidence
    sequences.
    """
    n = wins + losses
    if not n:
        return AlwaysValid(Estimate(math.nan, 0.0, 1.0), 1.0)
    mixed = special.betaln(prior + wins, prior + losses) - special.betaln(prior, prior)

    def money(rate: float) -> float:
        return float(mixed - special.xlogy(wins, rate) - special.xlogy(losses, 1 - rate))

    mean = wins / n
    ends = [0.0 if not wins else _end(money, 0.0, mean), 1.0 if not losses else _end(money, 1.0, mean)]
    return AlwaysValid(Estimate(mean, *ends), math.exp(min(money(0.5), 700.0)))


def with_ties(values: ArrayLike) -> AlwaysValid:
    """Return what the values of independent prompts say: the average of 41 fixed bets on each.

    Args:
        values: share that the method won of each prompt, [N], 0..1; ties half.

    Source: Waudby-Smith & Ramdas 2024, Estimating means of bounded random variables by betting (fixed bets).
    """
    shares, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    if not len(shares):
        return AlwaysValid(Estimate(math.nan, 0.0, 1.0), 1.0)
    rates = np.linspace(0, 1, _NUM_RATES)
    kept = rates[_log_money(shares, counts, rates) < _LOG_LIMIT]
    mean = float(shares @ counts / counts.sum())
    low, high = (float(kept[0]), float(kept[-1])) if len(kept) else (mean, mean)
    step = 1 / (_NUM_RATES - 1)  # the true end lies within a step beyond
    interval = Estimate(mean, min(max(low - step, 0.0), mean), max(min(high + step, 1.0), mean))
    return AlwaysValid(interval, math.exp(min(float(_log_money(shares, counts, np.array([0.5]))[0]), 700.0)))


def _log_money(
    shares: NDArray[np.float64], counts: NDArray[np.intp], rates: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the logarithm of the money of the average bet against each win rate, [R]."""
    of_each = np.log1p(BETS[:, None, None] * (shares - rates[:, None]))  # [bets, R, shares]
    return special.logsumexp(of_each @ counts, axis=0) - math.log(len(BETS))


def _end(money: Callable[[float], float], outer: float, mean: float) -> float:
    """Return where the money reaches its limit between an end of 0..1, where it is infinite, and the mean."""
    if money(mean) >= _LOG_LIMIT:
        return mean
    near = outer + (mean - outer) * 1e-12
    found = optimize.root_scalar(lambda rate: min(money(rate), 1e6) - _LOG_LIMIT, bracket=(near, mean))
    return float(found.root)
