"""Win rates from few votes and many automatic scores (prediction-powered inference, Angelopoulos et al. 2023).

The votes alone decide what the win rate is; an evaluator that agrees with people makes its interval narrower. Votes
must be on a random part of the prompts, one value for each prompt, and the evaluator fixed before them. Raters count as
fixed.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from alignbench.statistics.resampling import CONFIDENCE, Estimate

MIN_VOTED = 50  # prompts; with fewer, what is fitted to votes follows their noise
MIN_VOTED_PER_SCORE = 10
NUM_FOLDS = 5


@dataclass(frozen=True)
class PoweredWinRate:
    """A win rate of votes with the help of automatic scores.

    Attributes:
        win_rate: with its 95 % interval, 0 to 1.
        weight: how much the automatic win rate counts, 0 to 1.
        saved: share of the votes that the help is worth: as narrow an interval of votes alone needs n / (1 - saved).
    """

    win_rate: Estimate
    weight: float
    saved: float


def prediction_powered(votes: ArrayLike, auto_voted: ArrayLike, auto_all: ArrayLike) -> PoweredWinRate:
    """Return the win rate of votes, corrected by what an evaluator says of the prompts that nobody voted on.

    W = mean(Y) - w (mean of f over voted prompts - mean of f over all), w = cov(Y, f) / var(f) within 0..1. The
    interval has Student's quantile at n - 1 degrees of freedom.

    Args:
        votes: Y, share that people give to the first method on each of n prompts, 0..1.
        auto_voted: f, the same by the evaluator on these prompts, [n]; any figure that rises with it.
        auto_all: f on all N prompts, the n included.

    Raises:
        ValueError: there are fewer than two votes, or figures do not belong together.
    """
    y, f, all_f = (np.asarray(one, dtype=np.float64) for one in (votes, auto_voted, auto_all))
    n, num_all = len(y), len(all_f)
    if n < 2 or f.shape != y.shape or num_all < n:
        raise ValueError(f"got {n} votes, {len(f)} scores of them and {num_all} scores in all; expected 2 <= n <= N")
    covariance = np.cov(y, f, ddof=1)
    weight = float(np.clip(covariance[0, 1] / covariance[1, 1], 0, 1)) if covariance[1, 1] > 0 else 0.0
    value = y.mean() - weight * (f.mean() - all_f.mean())
    rest = y - weight * f
    of_rest = rest.var(ddof=1)
    shared = weight**2 * all_f.var(ddof=1) + 2 * weight * np.cov(f, rest, ddof=1)[0, 1]
    variance = max(of_rest / n + shared / num_all, 0.0)
    half = stats.t.isf((1 - CONFIDENCE) / 2, n - 1) * np.sqrt(variance)
    alone = y.var(ddof=1) / n
    win_rate = Estimate(float(value), float(max(value - half, 0)), float(min(value + half, 1)))
    return PoweredWinRate(win_rate, weight, float(1 - variance / alone) if alone > 0 else 0.0)


def cross_fitted(
    votes: ArrayLike, scores_voted: ArrayLike, scores_all: ArrayLike, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Join several scores to one figure, by regression on the votes of other prompts.

    A regression that had seen the votes it helps would follow their noise, and the interval would be too narrow.

    Args:
        votes: share that people give to the first method on each of n prompts.
        scores_voted: [n, K] of the same prompts.
        scores_all: [N, K].
        seed: of the folds.

    Returns:
        For the voted prompts what the regression without their own fold says, [n]; for all the mean over folds, [N].

    Raises:
        ValueError: there are fewer than 50 votes, or fewer than 10 for each score.
    """
    y, x, all_x = (np.asarray(one, dtype=np.float64) for one in (votes, scores_voted, scores_all))
    if len(y) < max(MIN_VOTED, MIN_VOTED_PER_SCORE * x.shape[1]):
        raise ValueError(f"{len(y)} votes are too few to join {x.shape[1]} scores")
    center, scale = all_x.mean(axis=0), all_x.std(axis=0)
    x, all_x = ((one - center) / np.where(scale > 0, scale, 1) for one in (x, all_x))
    x, all_x = (np.column_stack([np.ones(len(one)), one]) for one in (x, all_x))
    fold = np.random.default_rng(seed).permutation(len(y)) % NUM_FOLDS
    out_of_fold = np.empty(len(y))
    of_all = np.zeros(len(all_x))
    for number in range(NUM_FOLDS):
        kept = fold != number
        fitted = np.linalg.lstsq(x[kept], y[kept], rcond=None)[0]
        out_of_fold[~kept] = x[~kept] @ fitted
        of_all += all_x @ fitted / NUM_FOLDS
    return out_of_fold, of_all
