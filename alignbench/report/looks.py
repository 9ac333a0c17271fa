"""What does a comparison show that was looked at several times: its interval and p-values over all planned looks.

Intervals and p-values are those of Jennison & Turnbull for repeated looks. They hold whichever look a run stopped at
and whichever evaluator decided, so all evaluators and all pairs of runs have them. Only the win rate that decided has
another p-value, the smaller one of a rule that was followed.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

from scipy import special

from alignbench.statistics.intervals import Comparison
from alignbench.statistics.resampling import CONFIDENCE, Estimate
from alignbench.statistics.sequential import LEVEL
from alignbench.store.look_record import LookPlan, LookRecord
from alignbench.store.scores import ScoreInfo


@dataclass(frozen=True)
class LooksOfPair:
    """The looks that decided how many prompts two contenders have in common.

    Attributes:
        plans: those of their runs; with several, each has an equal part of the level.
        num_prompts: different prompts that both have.
        decided: whether the win rate is the one that the rule went by, and the rule was followed.
    """

    plans: tuple[LookPlan, ...]
    num_prompts: int
    decided: bool

    @classmethod
    def of(cls, records: Iterable[LookRecord | None], num_prompts: int, decided_by: ScoreInfo | None) -> Self | None:
        """Return the looks of the runs of two contenders; None where nobody looked.

        Args:
            decided_by: the evaluator, where this is one run against base; else None.
        """
        found = [record for record in records if record is not None]
        plans = tuple(dict.fromkeys(record.plan for record in found))
        if not plans:
            return None
        decided = len(found) == 1 and decided_by is not None and found[0].was_decided(decided_by, num_prompts)
        return cls(plans, num_prompts, decided)

    @property
    def look(self) -> tuple[int, int]:
        """Return the number of the look, from 1, and of how many."""
        plan = min(self.plans, key=lambda plan: plan.look_with(self.num_prompts) / len(plan.sizes))
        return plan.look_with(self.num_prompts) + 1, len(plan.sizes)

    @cached_property
    def widening(self) -> float:
        """How many times as wide as the plain 95 % interval the repeated one is."""
        level = LEVEL / len(self.plans)
        return max(plan.boundaries.widening(plan.look_with(self.num_prompts), level) for plan in self.plans)

    def p_value(self, p_value: float) -> float:
        """Return the repeated p-value for that of a single test."""
        found = [plan.boundaries.repeated_p(plan.look_with(self.num_prompts), p_value) for plan in self.plans]
        return min(max(found) * len(found), 1.0)

    def result(self, single: Comparison, is_whole: bool) -> Comparison:
        """Return what a comparison shows, given what it would show if nobody had looked before.

        The win rate itself stays. Where runs stop as soon as it is high enough, it is on average too far from 0.5.

        Args:
            is_whole: whether it is of all prompts, and not of one group of them.
        """
        p_win = self._decided_p if self.decided and is_whole else self.p_value
        return replace(
            single,
            win_rate=self._win_rate(single.win_rate),
            gain=single.gain.stretched(self.widening),
            p_win=p_win(single.p_win),
            p_gain=self.p_value(single.p_gain),
            p_win_weights=p_win(single.p_win_weights),
            p_gain_weights=self.p_value(single.p_gain_weights),
        )

    def _decided_p(self, p_value: float) -> float:
        (plan,) = self.plans
        return plan.boundaries.stagewise_p(plan.look_with(self.num_prompts), p_value)

    def _win_rate(self, plain: Estimate) -> Estimate:
        if plain.value not in (0, 1):
            wide = plain.stretched(self.widening)
            return Estimate(wide.value, max(wide.low, 0.0), min(wide.high, 1.0))
        # with all prompts won, the plain end is the exact bound (0.05 / 2) ** (1 / prompts)
        tail = (1 - CONFIDENCE) / 2
        power = float(special.log_ndtr(self.widening * special.ndtri(tail)) / math.log(tail))
        return Estimate(plain.value, plain.low**power, 1 - (1 - plain.high) ** power)
