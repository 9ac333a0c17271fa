"""Medians of paired measurements, with intervals that assume no distribution."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A median, and what it lies within with a probability of 95 %; of fewer than six values that is all of them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Interval":
        """Return the median of values, and the interval of the sign test: between two of the sorted values."""
        ordered, num = sorted(values), len(values)
        left_out, tail = 0, 0.0
        while True:  # as many values at either end as a fair coin leaves out in less than 2.5 %
            tail += comb(num, left_out) / 2**num
            if tail > (1 - CONFIDENCE) / 2:
                break
            left_out += 1
        first = max(left_out - 1, 0)
        middle = (ordered[(num - 1) // 2] + ordered[num // 2]) / 2
        return cls(middle, ordered[first], ordered[num - 1 - first])

    def shown(self, form: str = ".2f") -> str:
        """Return it as text, as in `2.85 (2.71 to 2.93)`."""
        return f"{self.median:{form}} ({self.low:{form}} to {self.high:{form}})"
