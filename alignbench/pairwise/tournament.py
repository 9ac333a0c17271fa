"""A tournament among the images of one prompt: which of them meet, and how well each of them does.

The images stand in a circle, and each meets those that stand nearest to it. Images of one prompt differ by their noise
alone, so it does not matter who stands where.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from alignbench.pairwise.orders import JudgedPair

Opponents = Annotated[int, Field(ge=2, multiple_of=2, json_schema_extra={"expected": "an even number of at least 2"})]
MeetingOrders = Literal["both", "once"]
Standing = Literal["win_share", "quality"]


@dataclass(frozen=True)
class Tournament:
    """Who meets whom, and how often.

    Attributes:
        opponents: others that each image meets, half of them on each side of the circle; None, or too many: all.
        orders: `both`: each pair is shown in both orders. `once`: each pair is shown once, so that an image comes first
            as often as second, or once more or less where an even number of images all meet.
    """

    opponents: Opponents | None
    orders: MeetingOrders

    def pairs(self, num_images: int) -> list[tuple[int, int]]:
        """Return the images that meet; where a pair is shown once, the first of them is shown first."""
        reach = (num_images - 1) // 2
        everybody = self.opponents is None or self.opponents >= num_images - 1
        if not everybody and self.opponents is not None:
            reach = self.opponents // 2
        found = [(one, (one + apart) % num_images) for apart in range(1, reach + 1) for one in range(num_images)]
        if everybody and num_images % 2 == 0:  # those that face each other
            found += [(one, one + num_images // 2) for one in range(num_images // 2)]
        return found

    def num_calls(self, num_images: int) -> int:
        """Return how many times a comparer is asked about a group of images."""
        return len(self.pairs(num_images)) * (2 if self.orders == "both" else 1)


def margin(pair: JudgedPair, standing: Standing) -> float | None:
    """Return how image a did against b: its share of the win, or the log-odds that it is better; None: unknown."""
    if standing == "win_share" or pair.failed:
        return pair.won
    if pair.a_first is not None and pair.b_first is not None:
        return pair.quality
    return pair.verdicts[0].log_odds  # of a, which came first


def standings(
    pairs: Sequence[tuple[int, int]], judged: Sequence[JudgedPair], num_images: int, standing: Standing
) -> NDArray[np.float64]:
    """Return the mean share of the win, 0..1, or the mean log-odds, of each image over those that it met, [N].

    Failed pairs are left out. An image of which nothing is known has the mean of the others; if nothing is known of
    any, each has a half of the wins, or log-odds of 0.

    Args:
        pairs: the numbers of images a and b of each pair.
        judged: what was said of them.
    """
    total, count = np.zeros(num_images), np.zeros(num_images)
    for (a, b), pair in zip(pairs, judged, strict=True):
        found = margin(pair, standing)
        if found is None:
            continue
        total[[a, b]] += found, 1 - found if standing == "win_share" else -found
        count[[a, b]] += 1
    known = count > 0
    others = 0.5 if standing == "win_share" else 0.0
    if known.any():
        others = float((total[known] / count[known]).mean())
    return np.where(known, total / np.maximum(count, 1), others)
