"""How often chance gets a star, and how often a real difference does: simulated win rates with training seeds.

    python -m benchmarks.significance                     # minutes; the tables of docs/statistics.md
    python -m benchmarks.significance --comparisons 500   # a quick look

A comparison wins an image where a latent normal variable is above 0: the sum of what the prompt, the training seed and
the image alone add. The tests are those of the program, on its own levels.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy import stats

from alignbench.statistics.intervals import Resampling
from alignbench.statistics.significance import Level, levels_test, sign_flip_test, sign_test

ALPHA = 0.05
FAMILIES = (6, 126)
SEED_EFFECTS = (0, 3, 8)  # standard deviation over training seeds, in points of win rate
NUM_SEEDS = (1, 2, 3, 5, 10)
NUM_PROMPTS = (20, 256, 3200)
NUM_IMAGES = (1, 4)
PROMPT_SHARE = 0.3  # of the variance within a training seed


@dataclass(frozen=True)
class World:
    """What is simulated.

    Attributes:
        seed_effect: standard deviation of the win rate over training seeds, in points.
        win_rate: the true one, in percent.
        two_trained: whether the other method was trained as often, too, or is the untouched model.
    """

    seed_effect: float
    num_seeds: int
    num_prompts: int
    num_images: int
    win_rate: float = 50.0
    two_trained: bool = False

    def signs(self, rng: np.random.Generator) -> np.ndarray:
        """Draw one comparison: 1 where an image was won and -1 where it was lost, [Sa, Sb, P, K]."""
        num_others = self.num_seeds if self.two_trained else 1
        # near 50 % a shift of the latent variable moves the win rate by this much
        effect = self.seed_effect / 100 / stats.norm.pdf(0)
        mean = stats.norm.ppf(self.win_rate / 100) * np.sqrt(1 + effect**2 * (1 + self.two_trained))
        shift = mean + effect * rng.standard_normal((self.num_seeds, 1, 1, 1))
        if self.two_trained:
            shift = shift - effect * rng.standard_normal((1, num_others, 1, 1))
        prompt = np.sqrt(PROMPT_SHARE) * rng.standard_normal((self.num_prompts, 1), dtype=np.float32)
        alone = rng.standard_normal((self.num_seeds, num_others, self.num_prompts, self.num_images), dtype=np.float32)
        return np.where(shift + prompt + np.sqrt(1 - PROMPT_SHARE) * alone > 0, 1, -1)

    def p_value(self, rng: np.random.Generator) -> float:
        """Return what the program says of one comparison; NaN where it says that it cannot tell.

        It takes the larger of two p-values. The second, which is slow to compute, is left out where the first decides.
        """
        if self.num_seeds == 1:
            return float("nan")
        signs = self.signs(rng)
        image = signs.mean(axis=(0, 1)).ravel()
        prompts = Resampling(np.repeat(np.arange(self.num_prompts), self.num_images))
        by_method = [signs.mean(axis=(1, 2, 3)), signs.mean(axis=(0, 2, 3))][: 1 + self.two_trained]
        levels = [*prompts.levels(image, one_beside=True), *map(Level.of_seeds, by_method)]
        p = levels_test(float(image.mean()), levels)
        return p if p > ALPHA / min(FAMILIES) else max(p, sign_flip_test(prompts.cluster_sums(image[None])[0]))

    def p_value_of_weights(self, rng: np.random.Generator) -> float:
        """Return what the program says of two sets of images, whatever made them."""
        net = self.signs(rng).sum(axis=(0, 1, 3))
        return sign_test(net) if self.num_images == 1 else sign_flip_test(net)


def family_wise_error(p_values: np.ndarray, size: int) -> tuple[float, float]:
    """Return how often Holm's correction stars any of `size` independent nulls, and the standard error of that."""
    share = float((p_values < ALPHA / size).mean())  # the smallest of them decides
    error = np.sqrt(max(share, 1 / len(p_values)) * (1 - share) / len(p_values))
    return 1 - (1 - share) ** size, float(size * (1 - share) ** (size - 1) * error)


def simulate(world: World, comparisons: int, of_weights: bool = False) -> np.ndarray:
    """Return the p-values of some comparisons."""
    rng = np.random.default_rng(0)
    return np.array([(world.p_value_of_weights if of_weights else world.p_value)(rng) for _ in range(comparisons)])


def errors(comparisons: int) -> Iterator[str]:
    """Yield the lines of the table of family-wise errors, in percent."""
    yield "| seeds | effect of a seed | prompts | images a prompt | 6 over base | 126 over base | 6 trained | 126 trained |"
    yield "|---|---|---|---|---|---|---|---|"
    for seeds, effect, prompts, images in product(NUM_SEEDS, SEED_EFFECTS, NUM_PROMPTS, NUM_IMAGES):
        cells = []
        for two_trained in (False, True):
            world = World(effect, seeds, prompts, images, two_trained=two_trained)
            p = simulate(world, comparisons)
            cells += ["no star" if np.isnan(p).all() else _percent(*family_wise_error(p, size)) for size in FAMILIES]
        yield f"| {seeds} | {effect} | {prompts:,} | {images} | {' | '.join(cells)} |"


def errors_of_weights(comparisons: int) -> Iterator[str]:
    """Yield the lines of the table for images that nobody trained a model for, or one seed taken as it is."""
    yield "| prompts | images a prompt | 6 tests | 126 tests |"
    yield "|---|---|---|---|"
    for prompts, images in product(NUM_PROMPTS, NUM_IMAGES):
        p = simulate(World(0, 1, prompts, images), comparisons, of_weights=True)
        yield f"| {prompts:,} | {images} | {' | '.join(_percent(*family_wise_error(p, size)) for size in FAMILIES)} |"


def power(comparisons: int) -> Iterator[str]:
    """Yield the lines of the table of how often a true difference is starred, in percent."""
    rates = (55, 60, 70, 80)
    heads = [f"{rate} %, {size} tests" for size, rate in product(FAMILIES, rates)]
    yield f"| seeds | effect of a seed | prompts | {' | '.join(heads)} |"
    yield "|---|---|---|" + "---|" * len(heads)
    for seeds, effect, prompts in product((2, 3, 5, 10), (1, 3, 8), (256, 3200)):
        found = {rate: simulate(World(effect, seeds, prompts, 1, rate), comparisons) for rate in rates}
        cells = [f"{100 * (found[rate] < ALPHA / size).mean():.0f}" for size, rate in product(FAMILIES, rates)]
        yield f"| {seeds} | {effect} | {prompts:,} | {' | '.join(cells)} |"


def _percent(share: float, error: float) -> str:
    return f"{100 * share:.1f} ± {100 * error:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--comparisons", type=int, default=20000, help="null comparisons in each cell")
    arguments = parser.parse_args()
    few = max(arguments.comparisons // 20, 1)
    for title, lines in (
        ("Family-wise error, %", errors(arguments.comparisons)),
        ("Family-wise error of images as they are, %", errors_of_weights(arguments.comparisons // 4)),
        ("Power, %", power(few)),
    ):
        print(f"\n## {title}\n")
        for line in lines:
            print(line, flush=True)


if __name__ == "__main__":
    main()
