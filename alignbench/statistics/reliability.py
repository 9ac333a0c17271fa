"""Whether probabilities mean what they say: log loss, the best scale, and calibration in bins of equal size."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit

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
