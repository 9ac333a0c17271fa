"""Bradley-Terry strengths of several methods from who beats whom on the same prompts, with their uncertainty.

A method of strength x beats one of strength y on a share 1 / (1 + 10^((y - x) / 400)) of the images: Elo's units, the
first method fixed at 0. Ties are half a win for both, training seeds of a method are averaged, and every pair that
meets at all gets half a win more on either side, so that strengths stay finite.

Intervals come from the resamples of `statistics`: strengths are fitted anew in each, and training seeds are the second
level. What replacing a method's average by one of its seeds does to the strengths is taken to first order, from the
likelihood's curvature; the rest is as for every other figure. Where one method won every cluster there is nothing to
resample: such pairs draw the share won from the distribution that has the exact binomial bound as its lower quantile.
The upper end is then the strength itself, which the half win alone keeps finite.

The likelihood has a single maximum. It is found by Newton's method, damped so that no step can lower it: the usual
minorise-maximise rounds end at the same point, but only after thousands of them where one method wins nearly always.

Source: Bradley & Terry 1952; Hunter 2004, "MM algorithms for generalized Bradley-Terry models" (existence, uniqueness);
Sun & Tran-Dinh 2019, "Generalized self-concordant functions", theorem 2 with nu = 2 (the damping).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, permutations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from alignbench.statistics.intervals import won_by_seed
from alignbench.statistics.resampling import Estimate, Floats, Resampling

ELO = 400 / math.log(10)  # units of strength a unit of log-odds
PSEUDO_WIN = 0.5
SUMS = ("images", "by_a", "by_b")
_MAX_STEPS = 200
_PRECISION = 1e-9  # of a log-strength


@dataclass(frozen=True)
class Meeting:
    """Methods a and b on the images that both have, for each of X things: clusters, resamples, or the whole table.

    Attributes:
        images: [X], how many both have.
        by_a, by_b: on how many of them a won, ties half, by seed of a, [Sa, X], and by seed of b, [Sb, X].
    """

    a: int
    b: int
    images: Floats
    by_a: Floats
    by_b: Floats

    @property
    def won(self) -> Floats:
        """[X], averaged over seeds."""
        return self.by_a.mean(axis=0)


@dataclass(frozen=True)
class Ranking:
    """How M methods stand to each other.

    Attributes:
        strengths: of each method, in Elo's units above the first.
        stronger: [M, M], whether the interval of the difference of strengths i - j lies above 0.
        gaps: [M, M], observed minus fitted win rate of i over j; NaN where they never met.
        intransitive: triples (i, j, k), i the smallest, where i beats j, j beats k and k beats i on most images.
    """

    strengths: list[Estimate]
    stronger: NDArray[np.bool_]
    gaps: Floats
    intransitive: list[tuple[int, int, int]]

    def ranks(self, taking_part: Sequence[bool]) -> list[int | None]:
        """Return 1 + the number of surely stronger methods for each that takes part, None for the others.

        Methods whose difference has an interval around 0 share a rank, unless a third one tells them apart.
        """
        above = self.stronger[np.asarray(taking_part, dtype=bool)].sum(axis=0)
        return [1 + int(number) if counts else None for number, counts in zip(above, taking_part, strict=True)]


def rank(scores: Sequence[ArrayLike], resampling: Resampling, widening: ArrayLike = 1.0) -> Ranking:
    """Fit the strengths of several methods; the higher score wins.

    Args:
        scores: of at least two methods, [N] or [S, N], in the order of the images that `resampling` was made for; NaN
            where a method has no score of an image. The first method is the zero of the scale.
        widening: how many times as wide as the plain one the interval of each difference is, [M, M], as where runs were
            stopped early.

    Raises:
        ValueError: when a method shares no image with the first.
    """
    num = len(scores)
    factors = np.broadcast_to(np.asarray(widening, dtype=np.float64), (num, num))
    clusters = list(_meetings([np.atleast_2d(np.asarray(score, dtype=np.float64)) for score in scores], resampling))
    if alone := set(range(1, num)) - {m.b for m in clusters if m.a == 0}:
        raise ValueError(f"method {min(alone)} shares no image with method 0; compare methods on the same images")
    table = [replace(m, **{name: getattr(m, name).sum(axis=-1, keepdims=True) for name in SUMS}) for m in clusters]
    wins = _wins(table, num)[0]
    games = wins + wins.T
    pseudo_wins = PSEUDO_WIN * (games > 0)
    fitted = log_strengths(wins + pseudo_wins)
    resampled = _resampled(clusters, table, resampling)
    resampled_wins = _wins(resampled, num) + pseudo_wins
    draws = log_strengths(resampled_wins, start=fitted)
    effects = _effects(resampled, resampled_wins, draws)

    strengths, stronger = [Estimate(0.0, 0.0, 0.0)], np.zeros((num, num), dtype=bool)
    for i, j in combinations(range(num), 2):
        difference = draws[:, j] - draws[:, i]
        levels = [
            difference[None] if len(effect) == 1 else difference + effect[..., j] - effect[..., i] for effect in effects
        ]
        value = float(fitted[j] - fitted[i])
        interval = resampling.interval(ELO * value, ELO * resampling.over_seeds(difference, *levels))
        interval = interval if factors[i, j] == 1 else interval.stretched(float(factors[i, j]))
        low, high = np.minimum(interval.low, interval.value), np.maximum(interval.high, interval.value)
        stronger[j, i], stronger[i, j] = low > 0, high < 0
        if i == 0:
            strengths.append(Estimate(interval.value, float(low), float(high)))
    with np.errstate(invalid="ignore"):
        observed = wins / games
    gaps = observed - np.where(games > 0, expit(fitted[:, None] - fitted), np.nan)
    beats = observed > 0.5
    orders = (order for order in permutations(range(num), 3) if order[0] == min(order))
    intransitive = [(i, j, k) for i, j, k in orders if beats[i, j] and beats[j, k] and beats[k, i]]
    return Ranking(strengths, stronger, gaps, intransitive)


def log_strengths(wins: Floats, start: ArrayLike = 0.0) -> Floats:
    """Return the log-strengths of highest likelihood.

    Args:
        wins: [..., M, M], how often i won over j, ties half; the diagonal is 0. For a finite maximum nobody may have
            lost, or won, everything against a group of the others.
        start: [..., M], where to begin.

    Returns:
        [..., M], the first 0.
    """
    games = wins + np.swapaxes(wins, -1, -2)
    strengths = np.array(np.broadcast_to(start, wins.shape[:-1]), dtype=np.float64)
    for _ in range(_MAX_STEPS):
        probability = expit(strengths[..., :, None] - strengths[..., None, :])
        surplus = (wins - games * probability).sum(axis=-1)
        step = _solved(games, probability, surplus[..., None, :])[..., 0, :]
        spread = np.ptp(step, axis=-1, keepdims=True)
        if spread.max() < _PRECISION:
            return strengths + step
        strengths += step * np.log1p(spread) / np.where(spread > 0, spread, 1)
    raise ArithmeticError(f"Bradley-Terry strengths did not settle in {_MAX_STEPS} steps; is somebody unbeaten?")


def _solved(games: Floats, probability: Floats, surplus: Floats) -> Floats:
    """Return the first-order change of log-strengths that answers a surplus of wins, [..., K, M] for both."""
    weight = games * probability * np.swapaxes(probability, -1, -2)
    curvature = weight.sum(axis=-1)[..., None] * np.eye(weight.shape[-1]) - weight
    solution = np.linalg.solve(curvature[..., 1:, 1:], np.swapaxes(surplus[..., 1:], -1, -2))
    change = np.zeros_like(surplus)
    change[..., 1:] = np.swapaxes(solution, -1, -2)
    return change


def _meetings(values: list[Floats], resampling: Resampling) -> Iterator[Meeting]:
    """Yield all pairs a < b that share an image, cluster by cluster."""
    for a, b in combinations(range(len(values)), 2):
        both = np.logical_and.reduce(np.isfinite(np.concatenate([values[a], values[b]])))
        if both.any():
            rows = (np.where(both, rows, 0.0) for rows in won_by_seed(values[a], values[b]))
            images, *sums = map(resampling.cluster_sums, (both[None].astype(np.float64), *rows))
            yield Meeting(a, b, images[0], *sums)


def _resampled(clusters: list[Meeting], table: list[Meeting], resampling: Resampling) -> list[Meeting]:
    """Return the meetings in each resample."""
    rows = [np.concatenate([m.images[None], m.by_a, m.by_b]) for m in clusters]
    totals = np.split(_totals(np.concatenate(rows), resampling), np.cumsum([len(part) for part in rows])[:-1])
    doubt = np.random.default_rng([resampling.seed, resampling.num_clusters, 1]).random(resampling.num_resamples)
    meetings = []
    for m, whole, sums in zip(clusters, table, totals, strict=True):
        images, by_a, by_b = np.split(sums, [1, 1 + len(m.by_a)])
        if float(whole.won[0]) in (0.0, float(whole.images[0])):
            # the same draw for all such pairs, as they are won or lost on the same prompts
            share = doubt ** (1 / resampling.num_units(m.images))
            by_a = by_b = images * (share if whole.won[0] else 1 - share)
        meetings.append(Meeting(m.a, m.b, images[0], by_a, by_b))
    return meetings


def _totals(sums: Floats, resampling: Resampling) -> Floats:
    """Return the totals of each row, [K, C] to [K, R]. Equal rows, as of pairs on the same images, are added once."""
    number: dict[bytes, int] = {}
    index = [number.setdefault(row.tobytes(), len(number)) for row in sums]
    _, first = np.unique(index, return_index=True)
    return resampling.totals(sums[first])[index]


def _wins(meetings: list[Meeting], num: int) -> Floats:
    """Return how often each method won over each other, [X, M, M]."""
    wins = np.zeros((len(meetings[0].images), num, num))
    for m in meetings:
        wins[:, m.a, m.b] = m.won
        wins[:, m.b, m.a] = m.images - m.won
    return wins


def _effects(meetings: list[Meeting], wins: Floats, strengths: Floats) -> list[Floats]:
    """Return for each method what taking one of its seeds for their average adds to all strengths, [S, R, M]."""
    changes = [np.zeros((len(wins), 1, 1))] * strengths.shape[1]
    for m in meetings:
        for method, by_seed in ((m.a, m.by_a), (m.b, m.by_b)):
            if len(by_seed) > 1:
                change = np.zeros((len(wins), len(by_seed), strengths.shape[1]))
                change[..., m.a] = (by_seed - m.won).T
                change[..., m.b] = -change[..., m.a]
                changes[method] = changes[method] + change
    none = np.zeros((1, *strengths.shape))
    if not any(c.any() for c in changes):  # no method has several seeds
        return [none] * len(changes)
    games, probability = wins + np.swapaxes(wins, -1, -2), expit(strengths[..., :, None] - strengths[..., None, :])
    return [none if not c.any() else np.moveaxis(_solved(games, probability, c), 1, 0) for c in changes]
