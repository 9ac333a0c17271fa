"""How well a judge predicts what people prefer: accuracy, calibration, and what is possible at best."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit

from alignbench.statistics.intervals import compare, mean
from alignbench.statistics.resampling import Estimate, Resampling

NUM_BINS = 10
SCALES = (0.01, 100.0)  # within which the factor on the scores is sought

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Bin:
    """Pairs that the judge is about equally sure of.

    Attributes:
        confidence: mean probability that the judge gives to the image it prefers, 0.5..1.
        agreement: mean probability, by the data, that this image is preferred.
        num_pairs: how many there are.
    """

    confidence: float
    agreement: float
    num_pairs: int


@dataclass(frozen=True)
class ProbabilityCalibration:
    """Whether probabilities mean what they say.

    Attributes:
        error: expected calibration error: how far confidence and agreement of a bin are apart, averaged over the pairs.
        by_chance: the error to be expected of a perfect judge, for chance alone moves the agreement of so few pairs.
        bins: of equal size, by rising confidence.
    """

    error: float
    by_chance: float
    bins: list[Bin]


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


def log_loss(margins: Floats, probability: Floats) -> float:
    """Return the mean cross-entropy in nats.

    Args:
        margins: score of the winner minus score of the loser, [N].
        probability: that the winner is preferred, [N].
    """
    # log sigmoid(m) = -log(1 + exp(-m))
    return float(np.mean(probability * np.logaddexp(0, -margins) + (1 - probability) * np.logaddexp(0, margins)))


def best_scale(margins: Floats, probability: Floats) -> float:
    """Return the factor on all scores at which the log loss is least: temperature scaling.

    Source: Guo et al. 2017 (On Calibration of Modern Neural Networks), section 4.2.
    """
    low, high = np.log(SCALES)
    found: Any = minimize_scalar(
        lambda log_scale: log_loss(np.exp(log_scale) * margins, probability), bounds=(low, high), method="bounded"
    )
    return float(np.exp(found.x))


def calibration(margins: Floats, probability: Floats, num_bins: int = NUM_BINS) -> ProbabilityCalibration:
    """Compare probabilities of a judge with those of the data, in bins of equal size.

    What counts is the image that the judge prefers: which of the two the data put first has no influence.

    Args:
        margins: score of the winner minus score of the loser, [N].
        probability: that the winner is preferred, [N].
    """
    confidence = expit(np.abs(margins))
    agreement = np.where(margins >= 0, probability, 1 - probability)
    parts = np.array_split(np.argsort(confidence, kind="stable"), min(num_bins, len(margins)))
    bins = [Bin(float(confidence[part].mean()), float(agreement[part].mean()), len(part)) for part in parts]
    error = sum(abs(one.confidence - one.agreement) * one.num_pairs for one in bins) / len(margins)
    # of a normal with standard deviation s, the mean distance from its centre is s sqrt(2 / pi)
    spread = sum(np.sqrt(len(part)) * (agreement - confidence)[part].std() for part in parts) / len(margins)
    return ProbabilityCalibration(error, float(np.sqrt(2 / np.pi) * spread), bins)


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
