"""Whether a printed figure comes out: how far ours may be from it, and what its row comes to."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from alignbench.report.published_tables.reproduced import Verdict
from alignbench.reproduce.rows import Figure
from alignbench.statistics.resampling import Estimate

REPRODUCED: Verdict = "reproduced"
DIFFERS: Verdict = "differs"
NOT_COMPARABLE: Verdict = "not comparable"
NOT_MEASURED: Verdict = "not measured"
NORMAL_95 = NormalDist().inv_cdf(0.975)
ROUNDING_ERROR = 1e-9  # of sums of decimal numbers


@dataclass(frozen=True)
class Tolerance:
    """How far our figure may be from a printed one, in the printed scale.

    Attributes:
        ours: half-width of our 95 % interval, on the side of the printed figure.
        theirs: half-width of the 95 % interval of the printed figure, over its prompts.
        rounding: half a unit of the last printed digit.
        num_figures: compared figures of the row. The intervals are widened so that all of them hold together at 95 %
            (Bonferroni).
    """

    ours: float
    theirs: float
    rounding: float
    num_figures: int = 1

    @property
    def total(self) -> float:
        """The largest difference that both sampling errors and rounding explain."""
        widening = NormalDist().inv_cdf(1 - 0.025 / self.num_figures) / NORMAL_95
        return widening * math.hypot(self.ours, self.theirs) + self.rounding

    def __str__(self) -> str:
        """Say what it is made of."""
        many = f", widened for {self.num_figures} figures" if self.num_figures > 1 else ""
        errors = f"sampling error {self.ours:.2g} here and {self.theirs:.2g} there{many}"
        return f"{self.total:.3g}: {errors}, rounding {self.rounding:g}"


@dataclass(frozen=True)
class FigureVerdict:
    """What a printed figure comes to.

    Attributes:
        name: evaluator and statistic.
        expected: as printed.
        own: ours with its 95 % interval, in the printed scale; None where there is none.
        allowed: see `Tolerance.total`; None where nothing is compared.
        told: why it is not comparable or not measured, or what the tolerance is made of.
    """

    name: str
    expected: float
    own: Estimate | None
    allowed: float | None
    verdict: Verdict
    told: str

    @property
    def gap(self) -> float | None:
        """Ours minus printed; None where there is none of ours."""
        return None if self.own is None else self.own.value - self.expected


@dataclass(frozen=True)
class Measured:
    """A printed figure and what was found for it.

    Attributes:
        own: in the evaluator's own scale; None where there is none.
        obstacles: what keeps the two apart.
        missing: why there is none of ours; empty where there is.
    """

    figure: Figure
    own: Estimate | None
    obstacles: tuple[str, ...] = ()
    missing: str = ""


def judge(measured: Sequence[Measured], num_prompts: int) -> list[FigureVerdict]:
    """Return the verdict on each figure of one row.

    Args:
        num_prompts: number of prompts behind each printed figure.
    """
    num_compared = sum(_is_comparable(one) for one in measured)
    return [_judged(one, num_prompts, num_compared) for one in measured]


def _is_comparable(one: Measured) -> bool:
    return one.own is not None and not one.obstacles and _has_interval(one.own)


def _has_interval(own: Estimate) -> bool:
    return math.isfinite(own.low) and math.isfinite(own.high)


def _judged(one: Measured, num_prompts: int, num_compared: int) -> FigureVerdict:
    printed = one.figure.printed
    over = f" over {printed.opponent}" if printed.opponent else ""
    name = f"{printed.evaluator} {printed.statistic.replace('_', ' ')}{over}"
    if one.own is None:
        return FigureVerdict(name, printed.value, None, None, NOT_MEASURED, one.missing)
    own = Estimate(*(printed.scale * end for end in (one.own.value, one.own.low, one.own.high)))
    if not _is_comparable(one):
        why = "; ".join(one.obstacles) or "our figure has no interval; it needs more than one prompt"
        return FigureVerdict(name, printed.value, own, None, NOT_COMPARABLE, why)
    tolerance = tolerance_of(one.figure, own, num_prompts, num_compared)
    within = abs(own.value - printed.value) <= tolerance.total + ROUNDING_ERROR
    return FigureVerdict(name, printed.value, own, tolerance.total, REPRODUCED if within else DIFFERS, str(tolerance))


def tolerance_of(figure: Figure, own: Estimate, num_prompts: int, num_figures: int = 1) -> Tolerance:
    """Return how far our figure may be from a printed one.

    The sampling error of a printed win rate p over n prompts is that of a share, 1.96 sqrt(p (1 - p) / n). Papers print
    no spread of scores, so that of a printed median or mean is taken to be ours: both are over the same prompts.

    Args:
        own: ours, in the printed scale.
    """
    printed = figure.printed
    ours = own.high - own.value if printed.value > own.value else own.value - own.low
    theirs = ours
    if printed.statistic == "win_rate":
        share = min(max(printed.value / printed.scale, 0.0), 1.0)
        theirs = printed.scale * NORMAL_95 * math.sqrt(share * (1 - share) / num_prompts)
    return Tolerance(ours, theirs, 0.5 * 10**-figure.decimals, num_figures)


def overall(verdicts: Sequence[FigureVerdict]) -> Verdict:
    """Return what a row comes to: it is reproduced if all figures are that can be compared."""
    found = {one.verdict for one in verdicts}
    for verdict in (DIFFERS, REPRODUCED, NOT_COMPARABLE):
        if verdict in found:
            return verdict
    return NOT_MEASURED
