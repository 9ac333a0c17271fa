"""Medians, means and win rates with their uncertainty.

The unit of all uncertainty is the cluster: all images of one prompt text. Everything that is compared on the same
prompts uses the same resamples, so differences are paired. Scores are [N], or [S, N] for S training seeds measured on
the same N images; with several seeds every figure is the mean over them, and intervals have them as second level.

Two places go beyond the plain percentile bootstrap, both because it would claim too much. Few seeds: S seeds resampled
show only (S-1)/S of their variance and no heavy tails, so their deviation is scaled by sqrt(S/(S-1)) and the whole by
Student's over the normal quantile, at Satterthwaite's degrees of freedom. Total dominance: with every cluster won there
is nothing to resample, so the exact binomial bound stands in. One cluster alone has no interval: its ends are NaN.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from alignbench.statistics.significance import Level, flipped_sums, levels_test, sign_flip_test, sign_tests

CONFIDENCE = 0.95
NUM_RESAMPLES = 2000
_CHUNK = 256  # resamples held as floats at a time
_DRAWN = 16_384  # draws counted at a time; their counts stay in the processor's cache

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A figure and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


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


class Resampling:
    """The bootstrap resamples of one list of images: clusters drawn with replacement, the same for all who ask.

    Args:
        clusters: what each of the N images belongs to, usually its prompt text.
        num_resamples: how many; they take 4 bytes times the number of clusters each.
        seed: with the number of clusters, decides the draws.
    """

    def __init__(self, clusters: Iterable[Hashable], num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> None:
        number: dict[Hashable, int] = {}
        self.cluster = np.array([number.setdefault(name, len(number)) for name in clusters], dtype=np.intp)
        if not number:
            raise ValueError("no images to compare; expected at least one prompt with a score")
        self.num_clusters = len(number)
        self.num_resamples = num_resamples
        self.seed = seed

    @cached_property
    def counts(self) -> NDArray[np.uint16]:
        """How often each resample holds each cluster, [R, C]."""
        rng = np.random.default_rng([self.seed, self.num_clusters])
        counts = np.empty((self.num_resamples, self.num_clusters), dtype=np.uint16)
        step = max(_DRAWN // self.num_clusters, 1)
        for start in range(0, self.num_resamples, step):
            rows = counts[start : start + step]
            drawn = rng.integers(self.num_clusters, size=rows.shape)
            drawn += np.arange(len(rows))[:, None] * self.num_clusters
            rows[:] = np.bincount(drawn.ravel(), minlength=rows.size).reshape(rows.shape)
        return counts

    @cached_property
    def _counts_by_cluster(self) -> NDArray[np.uint16]:
        """The same by cluster, [C, R], each row in one piece of memory."""
        return np.ascontiguousarray(self.counts.T)

    def num_units(self, sums: Floats | None = None) -> int:
        """Return how many independent clusters there are, or those of them where `sums`, [C], is not 0."""
        return self.num_clusters if sums is None else int(np.count_nonzero(sums))

    def cluster_sums(self, values: Floats) -> Floats:
        """Add up the images of each cluster: [S, N] to [S, C]."""
        return np.array([np.bincount(self.cluster, row, self.num_clusters) for row in values], dtype=np.float64)

    def sums_by_level(self, values: Floats) -> list[Floats]:
        """Add up what belongs to each prompt, [K, N] to [K, P], and so on for all else that was drawn."""
        return [self.cluster_sums(values)]

    def levels(self, values: Floats, pseudo_prompts: bool = False) -> list[Level]:
        """Return what the mean of `values`, [N], depends on, training apart.

        Args:
            pseudo_prompts: whether to add a prompt with the value 1 and one with -1, each with the average number of
                images: where all were won, there would be no variance (Agresti & Coull 1998).
        """
        found = []
        for sums in self.sums_by_level(np.stack([values, np.ones_like(values)])):
            size = sums[1].mean()
            beside = [[size, -size], [size, size]] if pseudo_prompts else [[], []]
            found.append(Level.of_clusters(*np.concatenate([sums, beside], axis=1)))
        return found

    def totals(self, sums: Floats) -> Floats:
        """Return the total of each resample: what each cluster adds up to, [K, C], to [K, R]."""
        # wins and ties: float32 holds halves below 2^23 exactly, in whatever order they are added, at half the cost
        largest = np.abs(sums).sum(axis=1).max() * int(self.counts.max())
        is_exact = largest < 2**23 and bool((2 * sums == np.rint(2 * sums)).all())
        kind = np.float32 if is_exact else np.float64
        addends, found = sums.T.astype(kind), np.empty((len(sums), self.num_resamples))
        for start in range(0, self.num_resamples, _CHUNK):
            chunk = slice(start, start + _CHUNK)
            found[:, chunk] = (self.counts[chunk].astype(kind) @ addends).T
        return found

    def means(self, values: Floats) -> Floats:
        """Return the mean of each row in each resample: [K, N] to [K, R]."""
        totals = self.totals(self.cluster_sums(np.concatenate([values, np.ones((1, values.shape[1]))])))
        return totals[:-1] / totals[-1]

    def means_of_groups(self, values: Floats, members: NDArray[np.bool_]) -> Floats:
        """Return the average over groups of each group's mean, in each resample: [K, N] and [G, N] to [K, R].

        A resample averages the groups that it holds.
        """
        sizes = self.totals(self.cluster_sums(members.astype(np.float64)))
        sums = np.stack([self.totals(self.cluster_sums(np.where(rows, values, 0))) for rows in members])  # [G, K, R]
        held = (sizes > 0)[:, None]
        return (sums / np.maximum(sizes, 1)[:, None]).sum(axis=0) / held.sum(axis=0)

    def medians(self, values: Floats) -> Floats:
        """Return the median of each row in each resample: [K, N] to [K, R]."""
        order = np.argsort(values, axis=1, kind="stable")
        num_images = values.shape[1]
        # four standard deviations of a resample's median, in ranks; below them only a count is needed
        reach = 8 + int(2 * np.sqrt(np.square(np.bincount(self.cluster)).sum()))
        window = slice(max(num_images // 2 - reach, 0), num_images // 2 + reach)
        sums = [np.bincount(self.cluster[row[: window.start]], minlength=self.num_clusters) for row in order]
        *before, total = self.totals(np.array([*sums, np.bincount(self.cluster)], dtype=np.float64)).astype(np.int64)
        rows = zip(np.take_along_axis(values, order, axis=1), self.cluster[order], before, strict=True)
        return np.stack([self._medians(ascending, cluster, count, total, window) for ascending, cluster, count in rows])

    def _medians(
        self, ascending: Floats, cluster: NDArray[np.intp], before: NDArray, total: NDArray, window: slice
    ) -> Floats:
        """Find the middle of each resample where its images are counted up, `before` of them below the window."""
        middles = np.stack([(total - 1) // 2, total // 2])  # [2, R]: the median lies between these ranks
        # narrow numbers are added and compared faster
        kind = np.uint16 if max(total.max(), len(ascending)) < 2**16 else np.uint32
        wanted = np.maximum(middles - before, 0).astype(kind)
        counted = np.zeros(self.num_resamples, dtype=kind)
        is_below = np.empty(middles.shape, dtype=bool)
        passed = np.zeros(middles.shape, dtype=np.uint8 if len(cluster[window]) < 2**8 else kind)
        for number in cluster[window]:
            counted += self._counts_by_cluster[number]
            passed += np.less_equal(counted, wanted, out=is_below).view(np.uint8)
        lower, upper = np.minimum(window.start + passed.astype(np.intp), len(ascending) - 1)
        medians = (ascending[lower] + ascending[upper]) / 2
        outside = (before > middles[0]) | (before + counted <= middles[1])
        for row in np.flatnonzero(outside):
            image = np.searchsorted(np.cumsum(self.counts[row, cluster]), middles[:, row], side="right")
            medians[row] = ascending[image].mean()
        return medians

    def over_seeds(self, draws: Floats, *levels: Floats) -> Floats:
        """Add to resamples over prompts alone, [R], what drawing training seeds with replacement changes.

        Args:
            levels: for each method that takes part, the figure by seed in each resample, [S, R].
        """
        repeated = [(stream, level) for stream, level in enumerate(levels) if len(level) > 1]
        deviations = [self._seed_deviation(level, stream) for stream, level in repeated]
        variances = np.array([deviation.var() for deviation in deviations])
        if not variances.any():
            return draws
        freedom = np.array([len(level) - 1 for _, level in repeated])
        effective = (draws.var() + variances.sum()) ** 2 / (variances**2 / freedom).sum()  # Satterthwaite
        upper = (1 + CONFIDENCE) / 2
        widening = stats.t.ppf(upper, effective) / stats.norm.ppf(upper)
        return draws.mean() + widening * (draws - draws.mean() + sum(deviations))

    def _seed_deviation(self, level: Floats, stream: int) -> Floats:
        num_seeds = len(level)
        rng = np.random.default_rng([self.seed, self.num_clusters, num_seeds, stream])
        chosen = rng.integers(num_seeds, size=level.shape)
        resampled = np.take_along_axis(level, chosen, axis=0).mean(axis=0)
        return (resampled - level.mean(axis=0)) * np.sqrt(num_seeds / (num_seeds - 1))

    def interval(self, value: float, draws: Floats) -> Estimate:
        """Return `value` with the percentile interval of the resamples [R]."""
        if self.num_units() == 1:
            return Estimate(value, float("nan"), float("nan"))
        return Estimate(value, *_quantiles(draws, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)))


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
        return self.resampling.interval(value, self.resampling.over_seeds(draws.mean(axis=0), draws))

    def mean(self, method: int) -> Estimate:
        """Return the mean score with its interval."""
        draws = self._means[method]
        value = float(self.scores[method].mean())
        return self.resampling.interval(value, self.resampling.over_seeds(draws.mean(axis=0), draws))

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
        won = resampling.over_seeds(won_a.mean(axis=0), won_a, won_b)
        gained = resampling.over_seeds(mean_a.mean(axis=0) - mean_b.mean(axis=0), mean_a, -mean_b)
        net, gain = signs.mean(axis=(0, 1)), a.mean(axis=0) - b.mean(axis=0)  # [N]
        mean_net, mean_gain = float(net.mean()), float(gain.mean())
        nets, gains = resampling.sums_by_level(np.stack([signs.sum(axis=(0, 1)), gain]))[0]
        win_levels, gain_levels = resampling.levels(net, pseudo_prompts=True), resampling.levels(gain)
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
        win_levels += _seed_levels((signs.mean(axis=(1, 2)), signs.mean(axis=(0, 2))), trained)
        gain_levels += _seed_levels((a.mean(axis=1), b.mean(axis=1)), trained)
        return Comparison(
            n=signs.size,
            wins=int((signs > 0).sum()),
            ties=int((signs == 0).sum()),
            win_rate=_win_rate(0.5 + mean_net / 2, won, resampling),
            gain=resampling.interval(mean_gain, gained),
            p_win=_larger(p_win, levels_test(mean_net, win_levels)) if any(trained) else p_win_weights,
            p_gain=_larger(p_gain, levels_test(mean_gain, gain_levels)) if any(trained) else p_gain_weights,
            p_win_weights=p_win_weights,
            p_gain_weights=p_gain_weights,
            levels=tuple(win_levels) if any(trained) else (),
        )

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


def won_by_seed(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """Return the share won by a, ties half, on each image: [Sa, N] by seed of a and [Sb, N] by seed of b."""
    signs = np.sign(a[:, None] - b[None])
    return 0.5 + signs.mean(axis=1) / 2, 0.5 + signs.mean(axis=0) / 2


def _quantiles(draws: Floats, shares: Sequence[float]) -> list[float]:
    """Return what `np.quantile` does of numbers, to the last bit, at half its cost: a report has 20,000 intervals."""
    places = [share * (len(draws) - 1) for share in shares]
    below = [int(place) for place in places]
    ordered = np.partition(draws, sorted({*below, *(min(rank + 1, len(draws) - 1) for rank in below)}))
    found = []
    for place, rank in zip(places, below, strict=True):
        low, high, part = float(ordered[rank]), float(ordered[min(rank + 1, len(draws) - 1)]), place - rank
        found.append(low + (high - low) * part if part < 0.5 else high - (high - low) * (1 - part))
    return found


def median(scores: ArrayLike, resampling: Resampling) -> Estimate:
    """Return the median score, [N] or [S, N], with its interval; with several seeds the mean of their medians."""
    return PairedScores([scores], resampling).median(0)


def mean(scores: ArrayLike, resampling: Resampling) -> Estimate:
    """Return the mean score, [N] or [S, N], with its interval."""
    return PairedScores([scores], resampling).mean(0)


def mean_of_groups(scores: ArrayLike, groups: Sequence[Hashable]) -> float:
    """Return the average of the mean scores, [N] or [S, N], of groups of images, [N]."""
    values = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    return float(np.mean([values[:, [one == group for one in groups]].mean() for group in dict.fromkeys(groups)]))


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
