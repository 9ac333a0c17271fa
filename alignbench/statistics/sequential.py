"""When may a comparison that is looked at several times stop, and which interval and p-value does it have then?

A group-sequential test looks a planned number of times at growing parts of the data. Each look has a boundary of its
own, higher than 1.96, so that the chance to cross any of them is 5 % where nothing differs. A look has a repeated
confidence interval and a repeated p-value, which hold whatever made somebody stop or go on. The comparison that the
rule itself has stopped has a smaller p-value, by the order of the looks.

Source: Jennison & Turnbull 2000, Group Sequential Methods with Applications to Clinical Trials: chapters 2 (Pocock,
O'Brien-Fleming), 7 (spending), 8 (stage-wise ordering), 9 (repeated intervals and p-values), 19 (integration).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.polynomial.legendre import leggauss
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

LEVEL = 0.05  # of all looks together, two-sided
Rule = Literal["obrien_fleming", "pocock"]
_NODES_PER_DEVIATION = 6  # of the integration, for each standard deviation of what one look adds
_MAX_Z = 9.0  # beyond it there is nothing that counts: 1e-19 of the normal distribution


def exit_probabilities(boundaries: ArrayLike, fractions: ArrayLike, drift: float = 0.0) -> NDArray[np.float64]:
    """Return the chance that each look is the first at which |z| reaches its boundary, [K].

    Args:
        boundaries: of |z| at each look, [K], >= 0; infinity for a look that cannot stop.
        fractions: share of all information that each look has, [K], rising to at most 1.
        drift: mean of z when all data are in; 0 where nothing differs. So the sum is the size, or the power.
    """
    bounds, shares = (np.asarray(one, dtype=np.float64) for one in (boundaries, fractions))
    found = np.zeros(len(bounds))
    nodes, mass = np.zeros(1), np.ones(1)  # of z times sqrt(fraction), as far as no boundary was crossed
    for look, (bound, step) in enumerate(zip(bounds, np.diff(shares, prepend=0.0), strict=True)):
        deviation, mean = math.sqrt(step), nodes + drift * step
        limit = min(bound, _MAX_Z + abs(drift)) * math.sqrt(shares[look])
        tails = special.ndtr((-limit - mean) / deviation) + special.ndtr((mean - limit) / deviation)
        found[look] = mass @ tails if np.isfinite(bound) else 0.0
        if limit == 0:
            break
        points, weights = _nodes(math.ceil(2 * limit / deviation * _NODES_PER_DEVIATION / 32 + 1))
        reached = limit * points
        density = np.exp(-(((reached[:, None] - mean) / deviation) ** 2) / 2) / (deviation * math.sqrt(2 * math.pi))
        nodes, mass = reached, limit * weights * (density @ mass)
    return found


@cache
def _nodes(number: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return leggauss(32 * number)


def spent(rule: Rule, fraction: ArrayLike, level: float = LEVEL) -> NDArray[np.float64]:
    """Return how much of the level is spent when a share of the information is in: Lan & DeMets' forms of the rules."""
    u = np.asarray(fraction, dtype=np.float64)
    if rule == "pocock":
        return level * np.log1p((math.e - 1) * u)
    return 2 * special.ndtr(special.ndtri(level / 2) / np.sqrt(u))


@dataclass(frozen=True)
class Boundaries:
    """The boundaries of a planned series of looks.

    Attributes:
        rule: `obrien_fleming` hardly ever stops early and keeps almost all power; `pocock` is as strict at every look.
        fractions: share of all information that each look has, rising to 1.
        by_spending: whether the level is spent as the information comes in, for looks at any times. Otherwise the rule
            has its classic shape, C / sqrt(fraction) or C, which is meant for looks that are equally far apart.
    """

    rule: Rule
    fractions: tuple[float, ...]
    by_spending: bool = False

    def __post_init__(self) -> None:
        steps = np.diff(self.fractions, prepend=0.0)
        if not self.fractions or not (steps > 0).all() or self.fractions[-1] != 1:
            raise ValueError(f"fractions are {self.fractions}, expected numbers that rise from above 0 to 1")

    def critical(self, level: float = LEVEL) -> NDArray[np.float64]:
        """Return the boundary of |z| at each look, [K]."""
        return np.array(_critical(self, level))

    def nominal_level(self, look: int, level: float = LEVEL) -> float:
        """Return the p-value, as of a single test, that a look stops at; looks are counted from 0."""
        return 2 * float(special.ndtr(-self.critical(level)[look]))

    def repeated_p(self, look: int, p_value: float) -> float:
        """Return the p-value at a look that takes all planned looks into account.

        It is the level at which the look would just have crossed its boundary.

        Args:
            look: counted from 0.
            p_value: of a single test of the data up to this look, two-sided; NaN stays.
        """
        if math.isnan(p_value) or p_value == 1:
            return p_value
        return _repeated_p(self, look, max(p_value, 2 * float(special.ndtr(-_MAX_Z))))

    def stagewise_p(self, look: int, p_value: float) -> float:
        """Return the p-value of a test that stopped at a look because the rule said so, or had no look left.

        All data that would have stopped earlier, and those that are as clear at this look, count as at least as
        extreme. So it is at most `LEVEL` if and only if a boundary was reached.

        Args:
            look, p_value: as for `repeated_p`.
        """
        if math.isnan(p_value):
            return p_value
        z = -float(special.ndtri(p_value / 2))
        return min(float(exit_probabilities([*self.critical()[:look], z], self.fractions[: look + 1]).sum()), 1.0)

    def widening(self, look: int, level: float = LEVEL) -> float:
        """Return how many times as wide as a plain 95 % interval the repeated one of a look is.

        Args:
            look: counted from 0.
            level: of all looks together, which the interval misses the truth with at most.
        """
        return float(self.critical(level)[look] / -special.ndtri(LEVEL / 2))

    def _shape(self, z: float, look: int) -> NDArray[np.float64]:
        """Return the boundaries of the classic rule that has `z` at a look."""
        shares = np.array(self.fractions)
        return np.full(len(shares), z) if self.rule == "pocock" else z * np.sqrt(shares[look] / shares)


@cache
def _critical(plan: Boundaries, level: float) -> tuple[float, ...]:
    if plan.by_spending:
        return tuple(_spending_critical(plan.rule, plan.fractions, level))
    last = len(plan.fractions) - 1

    def excess(z: float) -> float:
        return float(exit_probabilities(plan._shape(z, last), plan.fractions).sum()) - level

    return tuple(plan._shape(_root(excess, 1e-3, _MAX_Z), last))


def _spending_critical(rule: Rule, fractions: Sequence[float], level: float) -> list[float]:
    found: list[float] = []
    for look, share in enumerate(np.diff(spent(rule, fractions, level), prepend=0.0)):
        part = fractions[: look + 1]

        def excess(z: float, part: Sequence[float] = part, share: float = share) -> float:
            return float(exit_probabilities([*found, z], part)[-1]) - share

        # so little may be spent that float64 has no such tail: then this look does not stop
        found.append(_root(excess, 0.0, _MAX_Z) if excess(_MAX_Z) < 0 < excess(0.0) else math.inf)
    return found


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    return float(optimize.root_scalar(function, bracket=(low, high)).root)


@cache
def _repeated_p(plan: Boundaries, look: int, p_value: float) -> float:
    z = -float(special.ndtri(p_value / 2))
    if not plan.by_spending:
        return min(float(exit_probabilities(plan._shape(z, look), plan.fractions).sum()), 1.0)

    def excess(log_level: float) -> float:
        return min(_spending_critical(plan.rule, plan.fractions[: look + 1], math.exp(log_level))[look], _MAX_Z) - z

    lowest, highest = math.log(1e-15), math.log(1 - 1e-9)
    if excess(lowest) <= 0:
        return math.exp(lowest)
    return 1.0 if excess(highest) >= 0 else math.exp(_root(excess, lowest, highest))
