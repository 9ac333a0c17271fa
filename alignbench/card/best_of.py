"""What the best of n images gains, as one scorer chooses them and as others see them: hacking without any training."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from alignbench.card.human.records import spread_within
from alignbench.store.cards import BestOf

Floats = NDArray[np.float64]


def divergence(n: int) -> float:
    """Return the bound of the KL divergence of the best of n images from one image, in nats.

    Source: Beirami et al. 2024 (Theoretical guarantees on the best-of-n alignment policy).
    """
    return math.log(n) - (n - 1) / n


def expected_best(chooser: Floats, judge: Floats, n: int) -> float:
    """Return the mean score of the best of n images over all draws of n of them, without drawing.

    Args:
        chooser: scores by which the best is chosen, [N]; of equal ones each is as likely.
        judge: scores of the same images that are averaged, [N].
        n: 1..N.
    """
    total = math.comb(len(chooser), n)
    best = 0.0
    values = np.unique(chooser)
    for value in values:
        here = chooser == value
        below, upto = int((chooser < value).sum()), int((chooser <= value).sum())
        share = (math.comb(upto, n) - math.comb(below, n)) / total  # that the best of n has this score
        best += share * float(judge[here].mean())
    return best


def best_of(
    scorer: str,
    scores: Mapping[str, Sequence[Floats]],
    worth: Sequence[Floats] | None,
    numbers: Sequence[int],
    data: str,
) -> BestOf | None:
    """Return the curves of one scorer, over the prompts with as many images as the largest n that most prompts have.

    Args:
        scores: of the images of each record by each scorer, the higher the better.
        worth: what people think of them; None where labels of two prompts have different scales.
        numbers: n of the curve.

    Returns:
        None where no prompt has two images.
    """
    sizes = np.array([len(one) for one in scores[scorer]])
    most = int(np.median(sizes)) if len(sizes) else 0
    chosen = [n for n in sorted(set(numbers)) if n <= most]
    kept = [number for number, size in enumerate(sizes) if chosen and size >= chosen[-1]]
    if not kept or chosen[-1] < 2:
        return None
    gain = {name: _curve(scores[scorer], of, kept, chosen) for name, of in scores.items()}
    truth = None if worth is None else _curve(scores[scorer], worth, kept, chosen)
    return BestOf(
        data=data,
        num_prompts=len(kept),
        n=chosen,
        divergence=[divergence(n) for n in chosen],
        gain={name: curve for name, curve in gain.items() if curve is not None},
        truth=truth,
    )


def _curve(
    chooser: Sequence[Floats], judge: Sequence[Floats], kept: Sequence[int], numbers: Sequence[int]
) -> list[float] | None:
    """Return gains over one image, in the judge's deviations between images of a prompt; None where it has none."""
    spread = spread_within([judge[row] for row in kept])
    if not spread > 0:
        return None
    return [
        float(np.mean([expected_best(chooser[row], judge[row], n) - judge[row].mean() for row in kept])) / spread
        for n in numbers
    ]
