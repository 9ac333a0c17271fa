"""Medians, means and win rates with their uncertainty.

The unit of all uncertainty is the cluster: all images of one prompt text. Everything compared on the same prompts uses
the same resamples, so differences are paired. Scores are [N] for one run, or [S, N] for S training seeds on the same N
images; with several seeds every figure is the mean of the seeds' figures.

API sketch; bodies follow.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    n: int
    wins: int
    ties: int
    win_rate: Estimate
    gain: Estimate
    p_win: float
    p_gain: float


class Resampling:
    def __init__(self, clusters: Sequence[Hashable], num_resamples: int = 2000, seed: int = 0) -> None: ...


def median(scores: np.ndarray, resampling: Resampling) -> Estimate: ...
def mean(scores: np.ndarray, resampling: Resampling) -> Estimate: ...
def compare(scores_a: np.ndarray, scores_b: np.ndarray, resampling: Resampling) -> Comparison: ...
def sign_test(gains: np.ndarray) -> float: ...
def sign_flip_test(gains: np.ndarray, num_flips: int = 9999, seed: int = 0) -> float: ...
def holm(p_values: np.ndarray) -> np.ndarray: ...
