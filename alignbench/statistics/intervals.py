"""Medians, means and win rates with their uncertainty.

Everything that is compared on the same prompts uses the same resamples, so differences are paired. Scores are [N], or
[S, N] for S training seeds measured on the same N images; with several seeds every figure is the mean over them.

A win rate of 0 or 1 goes beyond the plain percentile bootstrap: with every cluster won there is nothing to resample, so
the exact binomial bound stands in.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from alignbench.statistics.resampling import CONFIDENCE, Estimate, Floats, Resampling
from alignbench.statistics.significance import Level, flipped_sums, levels_test, sign_flip_test, sign_tests


@dataclass(frozen=True)
class Comparison:
    """How method a does against method b on the same prompts and images.

    Attributes:
        n: comparisons made: images times seeds of a times seeds of b.
        wins, ties: how many of them a won, and how many were equal.
        win_rate: share won by a, ties half.
        gain: mean of score a minus score b.
        p_win, p_gain: of the win rate and of the gain, over clusters and training seeds: whether retraining would show
            it again. NaN where a method that was trained has one seed, which cannot tell.
        p_win_weights, p_gain_weights: the same over clusters alone: whether these weights differ on other prompts.
        levels: what p_win has the win rate depend on, if methods were trained several times; variances are those of
            the share won minus the share lost.
    """

    n: int
    wins: int
    ties: int
    win_rate: Estimate
    gain: Estimate
    p_win: float
    p_gain: float
    p_win_weights: float
    p_gain_weights: float
    levels: tuple[Level, ...] = ()


class PairedScores:
    """What several methods scored on the same images. Each kind of figure takes one pass over the resamples for all.

    Args:
        scores: of each method, [N] or [S, N], in the order of the images that `resampling` was made for.
        trained: whether each method came out of training, so that another seed would have given other scores; without
            it, those methods that have several seeds.
    """

    def __init__(
        self, scores: Sequence[ArrayLike], resampling: Resampling, trained: Sequence[bool] | None = None
    ) -> None:
        self.scores = [_checked(values, resampling) for values in scores]
        self.trained = [len(values) > 1 for values in self.scores] if trained is None else list(trained)
        self.resampling = resampling

    def median(self, method: int) -> Estimate:
        """Return the median score with its interval; with several seeds the mean of their medians."""
        draws = self._medians[method]
        value = float(np.median(self.scores[method], axis=1).mean())
        return self.resampling.interval(value, self.resampling.over_seeds(_averaged(draws), draws))

    def mean(self, method: int) -> Estimate:
        """Return the mean score with its interval."""
        draws = self._means[method]
        value = float(self.scores[method].mean())
        return self.resampling.interval(value, self.resampling.over_seeds(_averaged(draws), draws))

    def mean_of_groups(self, method: int, groups: Sequence[Hashable]) -> Estimate:
        """Return the average of the mean scores of groups of images, [N], with its interval."""
        members = np.array([[one == group for one in groups] for group in dict.fromkeys(groups)])
        values = self.scores[method]
        draws = self.resampling.means_of_groups(values, members)
        value = mean_of_groups(values, groups)
        return self.resampling.interval(value, self.resampling.over_seeds(draws.mean(axis=0), draws))

    def compare(self, method_a: int, method_b: int) -> Comparison:
        """Compare two methods image by image, every seed of a with every seed of b; the higher score wins."""
        a, b, resampling = self.scores[method_a], self.scores[method_b], self.resampling
        signs = np.sign(a[:, None] - b[None])  # [Sa, Sb, N]
        if method_a > method_b:
            won_a, won_b = self._won[method_a, method_b]
        else:
            won_b, won_a = (1 - won for won in self._won[method_b, method_a])
        mean_a, mean_b = self._means[method_a], self._means[method_b]
        won = resampling.over_seeds(_averaged(won_a), won_a, won_b)
        gained = resampling.over_seeds(_averaged(mean_a) - _averaged(mean_b), mean_a, -mean_b)
        all_seeds = signs.reshape(-1, signs.shape[-1])
        net, gain = _averaged(all_seeds), _averaged(a) - _averaged(b)  # [N]
        mean_net, mean_gain = float(net.mean()), float(gain.mean())
        net_sums, gain_sums, sums_of_all = zip(
            *resampling.sums_by_level(np.stack([net, gain, all_seeds.sum(axis=0)])), strict=True
        )
        win_levels, gain_levels = resampling.levels(net_sums, pseudo_prompts=True), resampling.levels(gain_sums)
        nets, gains = sums_of_all[0], gain_sums[0]
        if signs.size == len(nets):  # one image a prompt and one seed: each prompt is won, lost or a tie
            p_win = self._sign_tests[frozenset((method_a, method_b))]
        else:
            p_win = sign_flip_test(nets, seed=resampling.seed)
        is_one_of_many = len(self.scores) > 2
        flipped = (lambda: self._flipped[method_a] - self._flipped[method_b]) if is_one_of_many else None
        p_gain = sign_flip_test(gains, seed=resampling.seed, flipped=flipped)
        p_win_weights, p_gain_weights = p_win, p_gain
        if len(win_levels) > 1:  # of raters, too
            p_win_weights = _larger(p_win, levels_test(mean_net, win_levels))
            p_gain_weights = _larger(p_gain, levels_test(mean_gain, gain_levels))
        trained = self.trained[method_a], self.trained[method_b]
        net_wins = signs.sum(axis=2)  # [Sa, Sb]
        net_by_seed = net_wins.sum(axis=1) / signs[0].size, net_wins.sum(axis=0) / signs[:, 0].size
        win_levels += _seed_levels(net_by_seed, trained)
        gain_levels += _seed_levels((self._mean_scores[method_a], self._mean_scores[method_b]), trained)
        return Comparison(
            n=signs.size,
            wins=int(np.count_nonzero(signs > 0)),
            ties=int(np.count_nonzero(signs == 0)),
            win_rate=_win_rate(0.5 + mean_net / 2, won, resampling),
            gain=resampling.interval(mean_gain, gained),
            p_win=_larger(p_win, levels_test(mean_net, win_levels)) if any(trained) else p_win_weights,
            p_gain=_larger(p_gain, levels_test(mean_gain, gain_levels)) if any(trained) else p_gain_weights,
            p_win_weights=p_win_weights,
            p_gain_weights=p_gain_weights,
            levels=tuple(win_levels) if any(trained) else (),
        )

    @cached_property
    def _mean_scores(self) -> list[Floats]:
        """By method, [S]."""
        return [values.mean(axis=1) for values in self.scores]

    @cached_property
    def _medians(self) -> list[Floats]:
        """By method, [S, R]."""
        return self._by_method(self.resampling.medians(np.concatenate(self.scores)))

    @cached_property
    def _means(self) -> list[Floats]:
        """By method, [S, R]."""
        return self._by_method(self.resampling.means(np.concatenate(self.scores)))

    @cached_property
    def _flipped(self) -> Floats:
        """Sums of each method's scores over clusters with random signs, [M, F], for tests of their differences."""
        sums, *_ = self.resampling.sums_by_level(np.stack([values.mean(axis=0) for values in self.scores]))
        # what all methods have in common would only cost digits
        return flipped_sums(sums - sums.mean(axis=0), seed=self.resampling.seed)

    @cached_property
    def _sign_tests(self) -> dict[frozenset[int], float]:
        """P-value of the sign test of each pair, image by image, for methods with one seed."""
        pairs = list(combinations([i for i, values in enumerate(self.scores) if len(values) == 1], 2))
        p_values = sign_tests(np.array([self.scores[a][0] - self.scores[b][0] for a, b in pairs]))
        return dict(zip(map(frozenset, pairs), p_values.tolist(), strict=True))

    def _by_method(self, rows: Floats) -> list[Floats]:
        return np.split(rows, np.cumsum([len(values) for values in self.scores])[:-1])

    @cached_property
    def _won(self) -> dict[tuple[int, int], tuple[Floats, Floats]]:
        """Win rate of a over b by seed of a, [Sa, R], and by seed of b, [Sb, R], for all pairs a > b."""
        rows, parts = [], {}
        for b, a in combinations(range(len(self.scores)), 2):
            by_seed = won_by_seed(self.scores[a], self.scores[b])
            if len(self.scores[a]) == len(self.scores[b]) == 1:
                by_seed = by_seed[:1]  # the other is the same
            starts = np.cumsum([len(rows), *map(len, by_seed)])
            slices = [slice(*ends) for ends in pairwise(starts)]
            parts[a, b] = slices[0], slices[-1]
            rows += [row for part in by_seed for row in part]
        draws = self.resampling.means(np.array(rows))
        return {pair: (draws[by_a], draws[by_b]) for pair, (by_a, by_b) in parts.items()}


def _larger(p_exact: float, p_levels: float) -> float:
    """Return the larger p-value: the exact one alone knows how few prompts there are. NaN where either is."""
    return float(np.maximum(p_exact, p_levels))


def _seed_levels(by_seed: Sequence[Floats], trained: Sequence[bool]) -> list[Level]:
    """Return the levels of training seeds of two methods, from a figure by seed of each, [Sa] and [Sb]."""
    return [Level.of_seeds(values) for values, is_trained in zip(by_seed, trained, strict=True) if is_trained]


def _averaged(by_seed: Floats) -> Floats:
    """Return the mean over training seeds, [S, ...] to [...]; what there is of one seed alone is returned as it is."""
    return by_seed[0] if len(by_seed) == 1 else by_seed.mean(axis=0)


def won_by_seed(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """Return the share won by a, ties half, on each image: [Sa, N] by seed of a and [Sb, N] by seed of b."""
    signs = np.sign(a[:, None] - b[None])
    return 0.5 + _averaged(signs.swapaxes(0, 1)) / 2, 0.5 + _averaged(signs) / 2


def mean(scores: ArrayLike, resampling: Resampling) -> Estimate:
    """Return the mean score, [N] or [S, N], with its interval."""
    return PairedScores([scores], resampling).mean(0)


def mean_of_groups(scores: ArrayLike, groups: Sequence[Hashable]) -> float:
    """Return the average of the mean scores, [N] or [S, N], of groups of images, [N]."""
    values = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    return float(np.mean([values[:, [one == group for one in groups]].mean() for group in dict.fromkeys(groups)]))


def summary(scores: ArrayLike, kind: Literal["median", "mean"], groups: Sequence[Hashable] | None = None) -> float:
    """Return the median or the mean of scores, [N].

    Args:
        groups: of each score, [N], of which the means are averaged; None for a mean over all scores.
    """
    values = np.asarray(scores, dtype=np.float64)
    if kind == "median":
        return float(np.median(values))
    return float(values.mean()) if groups is None else mean_of_groups(values, groups)


def compare(
    scores_a: ArrayLike, scores_b: ArrayLike, resampling: Resampling, trained: Sequence[bool] | None = None
) -> Comparison:
    """Compare two methods image by image; see `PairedScores`.

    Args:
        trained: whether a and b came out of training.
    """
    return PairedScores([scores_b, scores_a], resampling, trained and trained[::-1]).compare(1, 0)


def _win_rate(value: float, draws: Floats, resampling: Resampling) -> Estimate:
    """Keep the interval within 0..1, and open where every cluster went the same way."""
    if value not in (0, 1) or resampling.num_units() == 1:
        return resampling.interval(value, np.clip(draws, 0, 1))
    bound = ((1 - CONFIDENCE) / 2) ** (1 / resampling.num_units())
    return Estimate(value, bound, 1.0) if value == 1 else Estimate(value, 0.0, 1 - bound)


def _checked(scores: ArrayLike, resampling: Resampling) -> Floats:
    """Return [S, N] float64."""
    values = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    if values.shape[1] != len(resampling.cluster):
        raise ValueError(f"got {values.shape[1]} scores, expected one for each of {len(resampling.cluster)} images")
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise ValueError(f"{bad} of {values.size} scores are not finite; expected a finite score for every image")
    return values
