"""How many prompts, images and training seeds a win rate needs to be seen, and the variances that decide it.

A prompt's value is the share of its images that a method wins over another, ties half. `ties` is the share of images
that are equal, and `correlation` that of two images of one prompt among those that are not.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

LEVEL = 0.05  # of significance, two-sided
POWER = 0.8  # chance that a true difference is found
_NUM_QUANTILES = 400


@dataclass(frozen=True)
class Spread:
    """What makes a win rate vary.

    Attributes:
        correlation: of two images of one prompt that were won or lost, 0 to 1.
        ties: share of images that are equal, 0 to 1, the 1 excluded.
        seed_deviation: standard deviation, 0 to 1, of the win rates of trainings with other seeds over the same
            infinitely many prompts.
    """

    correlation: float = 0.3
    ties: float = 0.0
    seed_deviation: float = 0.0

    @property
    def largest_win_rate(self) -> float:
        """The win rate of a method that wins all that is no tie."""
        return 1 - self.ties / 2

    def prompt_variance(self, win_rate: float, images: float = 1) -> float:
        """Return the variance of a prompt's value.

        Args:
            win_rate: true share won, ties half, 0 to 1.
            images: of each prompt.
        """
        between, within = self._components(win_rate)
        return between + within / images

    def _components(self, win_rate: float) -> tuple[float, float]:
        """Return the variance between prompts, and that of the images of a prompt around it."""
        decisive = 1 - self.ties
        excess = (win_rate - 0.5) / decisive
        of_one = 0.25 - excess**2  # variance of an image that is won or lost
        between = decisive**2 * self.correlation * of_one
        return between, decisive * of_one + self.ties * decisive * excess**2 - between

    def power(self, win_rate: float, prompts: float, images: int = 1, seeds: int = 1, comparisons: int = 1) -> float:
        """Return the chance that a true win rate is found significant.

        With one seed the claim is about these weights alone: a test over prompts. With more it is about the method:
        the test over prompts and training seeds of docs/statistics.md, for a method that was trained against a model
        that was not. The first and strictest of Holm's levels counts.

        Args:
            win_rate: true share won, ties half, 0 to 1.
            prompts: their number.
            images: of each prompt.
            seeds: trainings of the method.
            comparisons: rows that are tested together.
        """
        distance, level = abs(win_rate - 0.5), LEVEL / comparisons / 2
        if seeds == 1:
            error = math.sqrt(self.prompt_variance(win_rate, images) / prompts)
            return float(stats.norm.cdf(distance / error - stats.norm.isf(level)))
        over_prompts = self.prompt_variance(win_rate, images * seeds) / prompts
        of_seeds = self.seed_deviation**2 / seeds
        noise = self._components(win_rate)[1] / (images * prompts * seeds)  # in the win rates of the seeds
        # the test estimates the variance over seeds from them: draws of it, evenly spaced in probability
        shares = (np.arange(_NUM_QUANTILES) + 0.5) / _NUM_QUANTILES
        drawn = stats.chi2.ppf(shares, seeds - 1) / (seeds - 1) * (of_seeds + noise)
        needed = stats.t.isf(level, seeds - 1) * np.sqrt(over_prompts + drawn)
        return float(stats.norm.cdf((distance - needed) / math.sqrt(over_prompts + of_seeds)).mean())

    def prompts_needed(
        self, win_rate: float, images: int = 1, seeds: int = 1, comparisons: int = 1, most: int = 10**7
    ) -> int | None:
        """Return how many prompts show a true win rate with 80 % power; None if `most` do not, as with few seeds.

        Arguments are those of `power`.
        """
        if seeds == 1:
            quantiles = stats.norm.isf(LEVEL / comparisons / 2) + stats.norm.isf(1 - POWER)
            return math.ceil(quantiles**2 * self.prompt_variance(win_rate, images) / (win_rate - 0.5) ** 2)
        low, high = 1, most
        if self.power(win_rate, high, images, seeds, comparisons) < POWER:
            return None
        while low < high:
            middle = (low + high) // 2
            if self.power(win_rate, middle, images, seeds, comparisons) < POWER:
                low = middle + 1
            else:
                high = middle
        return low

    def smallest_win_rate(self, prompts: float, images: int = 1, seeds: int = 1, comparisons: int = 1) -> float | None:
        """Return the smallest win rate above one half that is found with 80 % power; None if none is.

        Arguments are those of `power`.
        """
        most = self.largest_win_rate - 1e-9
        if self.power(most, prompts, images, seeds, comparisons) < POWER:
            return None
        found = optimize.root_scalar(
            lambda win_rate: self.power(win_rate, prompts, images, seeds, comparisons) - POWER, bracket=(0.5, most)
        )
        return float(found.root)

    @classmethod
    def of(cls, signs: ArrayLike, prompts: ArrayLike) -> "Spread":
        """Return what a finished comparison shows.

        Args:
            signs: 1 for each image that was won, -1 for one that was lost, 0 for a tie, [S, N] for S training seeds.
            prompts: what prompt each of the N images belongs to.

        Returns:
            `correlation` is NaN where prompts have one image each, `seed_deviation` NaN with one seed.
        """
        signs = np.atleast_2d(np.asarray(signs, dtype=np.float64))
        _, cluster = np.unique(np.asarray(prompts), return_inverse=True)
        values = signs / 2
        rates = values.mean(axis=1)
        ties = float((signs == 0).mean())
        decisive = 1 - ties
        of_one = 0.25 - float(np.square(rates / decisive).mean()) if decisive else 0.0
        sizes = np.bincount(cluster)
        residuals = values - rates[:, None]
        sums = np.array([np.bincount(cluster, row) for row in residuals])
        pairs = (np.square(sums) - [np.bincount(cluster, row) for row in np.square(residuals)]).sum(axis=1)
        num_pairs = (sizes * (sizes - 1)).sum()
        if num_pairs and of_one:
            correlation = float(np.clip((pairs / num_pairs).mean() / (decisive**2 * of_one), 0, 1))
        else:
            correlation = math.nan
        if len(signs) == 1:
            return cls(correlation, ties, math.nan)
        # seeds share prompts, so that only what is left of an image after its mean over seeds makes their rates differ
        own = residuals - residuals.mean(axis=0)
        by_prompt = np.array([np.bincount(cluster, row) for row in own])
        noise = np.square(by_prompt).sum() / (len(signs) - 1) / signs.shape[1] ** 2
        return cls(correlation, ties, math.sqrt(max(float(rates.var(ddof=1) - noise), 0.0)))
