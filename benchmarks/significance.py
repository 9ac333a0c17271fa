"""How often chance gets a star, and how often a real difference does: simulated win rates with training seeds.

    python -m benchmarks.significance                     # minutes; the tables of docs/statistics.md
    python -m benchmarks.significance --comparisons 500   # a quick look

A comparison wins an image where a latent normal variable is above 0: the sum of what the prompt, the training seed and
the image alone add. The tests are those of the program, on its own levels.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from scipy import stats

from alignbench.statistics.resampling import Resampling
from alignbench.statistics.significance import Level, levels_test, sign_flip_test, sign_test

ALPHA = 0.05
FAMILIES = (6, 126)
SEED_EFFECTS = (0, 3, 8)  # standard deviation over training seeds, in points of win rate
NUM_SEEDS = (1, 2, 3, 5, 10)
NUM_PROMPTS = (20, 256, 3200)
NUM_IMAGES = (1, 4)
WIN_RATES = (55, 60, 70, 80)  # true ones, in percent
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
        prompts = clusters(self.num_prompts, self.num_images)
        nets = prompts.cluster_sums(image[None])[0]
        by_method = [signs.mean(axis=(1, 2, 3)), signs.mean(axis=(0, 2, 3))][: 1 + self.two_trained]
        levels = [*prompts.levels([nets], pseudo_prompts=True), *map(Level.of_seeds, by_method)]
        p = levels_test(float(image.mean()), levels)
        return p if p > ALPHA / min(FAMILIES) else max(p, sign_flip_test(nets))

    def p_value_of_weights(self, rng: np.random.Generator) -> float:
        """Return what the program says of two sets of images, whatever made them."""
        net = self.signs(rng).sum(axis=(0, 1, 3))
        return sign_test(net) if self.num_images == 1 else sign_flip_test(net)


@cache
def clusters(num_prompts: int, num_images: int) -> Resampling:
    """Return which prompt each image is of."""
    return Resampling(np.repeat(np.arange(num_prompts), num_images))


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
    """Yield the lines of the table for methods over base, in percent."""
    yield from _heads(
        "seeds", "effect of a seed", "prompts", "images a prompt", *(f"{size} tests" for size in FAMILIES)
    )
    for seeds, effect, prompts, images in product(NUM_SEEDS, SEED_EFFECTS, NUM_PROMPTS, NUM_IMAGES):
        p = simulate(World(effect, seeds, prompts, images), comparisons)
        yield f"| {seeds} | {effect} | {prompts:,} | {images} | {_cells(p)} |"


def errors_of_two(comparisons: int) -> Iterator[str]:
    """Yield the lines of the table for two methods that were trained equally often."""
    yield from _heads("seeds of each", "effect of a seed", "prompts", *(f"{size} tests" for size in FAMILIES))
    for seeds, effect, prompts in product(NUM_SEEDS[1:], SEED_EFFECTS, NUM_PROMPTS[:2]):
        p = simulate(World(effect, seeds, prompts, 1, two_trained=True), comparisons)
        yield f"| {seeds} | {effect} | {prompts:,} | {_cells(p)} |"


def errors_of_weights(comparisons: int) -> Iterator[str]:
    """Yield the lines of the table for images that nobody trained a model for, or one seed taken as it is."""
    yield from _heads("prompts", "images a prompt", *(f"{size} tests" for size in FAMILIES))
    for prompts, images in product(NUM_PROMPTS, NUM_IMAGES):
        yield f"| {prompts:,} | {images} | {_cells(simulate(World(0, 1, prompts, images), comparisons, True))} |"


def power(comparisons: int) -> Iterator[str]:
    """Yield the lines of the table of how often a true win rate is starred, in percent."""
    heads = [f"{rate} %, {size} tests" for size, rate in product(FAMILIES, WIN_RATES)]
    yield from _heads("seeds", "effect of a seed", "prompts", *heads)
    for seeds, effect, prompts in product(NUM_SEEDS[1:], (1, 3, 8), NUM_PROMPTS[1:]):
        found = {rate: simulate(World(effect, seeds, prompts, 1, rate), comparisons) for rate in WIN_RATES}
        cells = [f"{100 * (found[rate] < ALPHA / size).mean():.0f}" for size, rate in product(FAMILIES, WIN_RATES)]
        yield f"| {seeds} | {effect} | {prompts:,} | {' | '.join(cells)} |"


def _heads(*names: str) -> Iterator[str]:
    yield f"| {' | '.join(names)} |"
    yield "|---" * len(names) + "|"


def _cells(p_values: np.ndarray) -> str:
    if np.isnan(p_values).all():
        return " | ".join(["cannot tell"] * len(FAMILIES))
    errors = (family_wise_error(p_values, size) for size in FAMILIES)
    return " | ".join(f"{100 * share:.1f} ± {100 * error:.1f}" for share, error in errors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--comparisons", type=int, default=20000, help="null comparisons in each cell")
    num = parser.parse_args().comparisons
    for title, lines in (
        ("Family-wise error over base, %", errors(num)),
        ("Family-wise error of two trained methods, %", errors_of_two(num // 4)),
        ("Family-wise error of images as they are, %", errors_of_weights(num // 4)),
        ("Power, %", power(num // 20)),
    ):
        print(f"\n## {title}\n")
        for line in lines:
            print(line, flush=True)


if __name__ == "__main__":
    main()
