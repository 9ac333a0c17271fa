"""How well a judge predicts what people prefer: accuracy, calibration, and what is possible at best."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from alignbench.statistics.intervals import compare, mean
from alignbench.statistics.reliability import ProbabilityCalibration, calibration, log_loss
from alignbench.statistics.resampling import Estimate, Resampling

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class BestPossible:
    """What somebody who knows the law behind the labels achieves on the same pairs.

    Attributes:
        accuracy, agreement: of the law, as in `Figures`.
        gap: agreement of the law minus that of the judge, paired.
        log_loss: of the law.
        distance: mean absolute difference of the probabilities of law and judge.
    """

    accuracy: Estimate
    agreement: Estimate
    gap: Estimate
    log_loss: float
    distance: float


@dataclass(frozen=True)
class Figures:
    """How a judge does on pairs it never saw.

    Attributes:
        num_pairs, num_prompts: how many there were.
        num_ties: pairs that nobody won; they have no part in the accuracies.
        accuracy: share of pairs whose winner the judge prefers, with the interval over prompts.
        agreement: how often a single judgement is as the judge says: of four votes against one it counts four fifths or
            one fifth. The same as the accuracy where one judgement of each pair is known.
        log_loss: mean cross-entropy of its probabilities with those of the data, in nats; log 2 is guessing.
        calibration: of its probabilities.
        best: where the law is known.
    """

    num_pairs: int
    num_prompts: int
    num_ties: int
    accuracy: Estimate
    agreement: Estimate
    log_loss: float
    calibration: ProbabilityCalibration
    best: BestPossible | None


def measure(margins: Floats, probability: Floats, prompts: Sequence[str], law: Floats | None) -> Figures:
    """Return how a judge does on pairs.

    Args:
        margins: score of the winner minus score of the loser, [N].
        probability: that the winner is preferred, by the data, [N].
        prompts: of the pairs; all pairs of one are a cluster.
        law: that the winner is preferred, by the law behind the data, [N]; None where nobody knows it.
    """
    decided = probability != 0.5
    resampling = Resampling([prompt for prompt, keep in zip(prompts, decided, strict=True) if keep])

    def accuracy(margins: Floats) -> Estimate:
        won = margins[decided]
        return compare(won, np.zeros_like(won), resampling).win_rate

    everyone = Resampling(prompts)

    def agreed(margins: Floats) -> Floats:
        """Return how probable it is, by the data, that a judgement is for the image of the greater score."""
        return 0.5 + np.sign(margins) * (probability - 0.5)

    best = None
    if law is not None:
        law_margins = np.log(law) - np.log1p(-law)
        best = BestPossible(
            accuracy=accuracy(law_margins),
            agreement=mean(agreed(law_margins), everyone),
            gap=mean(agreed(law_margins) - agreed(margins), everyone),
            log_loss=log_loss(law_margins, probability),
            distance=float(np.abs(law - expit(margins)).mean()),
        )
    return Figures(
        num_pairs=len(margins),
        num_prompts=len(set(prompts)),
        num_ties=int((~decided).sum()),
        accuracy=accuracy(margins),
        agreement=mean(agreed(margins), everyone),
        log_loss=log_loss(margins, probability),
        calibration=calibration(margins, probability),
        best=best,
    )
