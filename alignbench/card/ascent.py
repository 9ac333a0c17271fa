"""How far a reward is raised by small changes of pixels, and whether anybody else notices."""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from alignbench.card.scoring import progress, scores_of
from alignbench.evaluator import Evaluator, Reward
from alignbench.images import rgb
from alignbench.scoring.network_pool import NetworkPool
from alignbench.store.cards import OtherGain, PixelAscent

Floats = NDArray[np.float64]
STEP_SHARE = 6  # a step changes a pixel by this part of the largest change


def raised(reward: Reward, pixels: Tensor, prompts: Sequence[str], bound: float, num_steps: int) -> Tensor:
    """Return images after signed gradient steps up a reward, within a box around where they began.

    Args:
        pixels: [N, 3, H, W], 0..1, on the device of the reward.
        bound: largest change of a value.
    """
    found = pixels.clone()
    for _ in range(num_steps):
        with torch.enable_grad():
            leaf = found.detach().requires_grad_(True)
            sign = 1.0 if reward.higher_is_better else -1.0
            (gradient,) = torch.autograd.grad(sign * reward.reward(leaf, prompts).sum(), leaf)
        moved = found + bound / STEP_SHARE * gradient.sign()
        found = torch.minimum(torch.maximum(moved, pixels - bound), pixels + bound).clamp(0, 1)
    return found.detach()


def with_random_signs(pixels: Tensor, bound: float, seed: int) -> Tensor:
    """Return images whose values are each moved up or down by the largest change, at random: the control."""
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, pixels.shape, generator=generator).to(pixels) * 2 - 1
    return (pixels + bound * signs).clamp(0, 1)


class Ascents:
    """The images that rewards are raised on, and what all evaluators think of them; asked once for all rewards.

    Args:
        data: name of the data set that the images are from.
        evaluators: all scorers that are asked; each reward is among them.
        spreads: by the name of each, its standard deviation between images of one prompt; the unit of gains.
        seed: of the random changes.
    """

    def __init__(
        self,
        data: str,
        evaluators: Sequence[Evaluator],
        spreads: Mapping[str, float],
        images: Sequence[Image.Image],
        prompts: Sequence[str],
        batch_size: int,
        pool: NetworkPool,
        seed: int,
    ) -> None:
        self.data, self.evaluators, self.prompts, self.pool, self.seed = data, evaluators, prompts, pool, seed
        self.spreads = spreads
        rows_of_batches = _rows(images, batch_size)
        self.batches = [(rows, torch.stack([_pixels(images[row]) for row in rows])) for rows in rows_of_batches]
        self._control: dict[int, Floats] = {}

    @cached_property
    def before(self) -> Floats:
        """Scores of the unchanged images, [evaluators, images], the higher the better."""
        return self._scores([pixels for _, pixels in self.batches])

    def control(self, levels: int) -> Floats:
        """Return the scores after random changes of a size, [evaluators, images]."""
        if levels not in self._control:
            noisy = [with_random_signs(pixels, levels / 255, self.seed + rows[0]) for rows, pixels in self.batches]
            self._control[levels] = self._scores(noisy)
        return self._control[levels]

    def measure(self, reward: Reward, levels: int, num_steps: int) -> PixelAscent:
        """Raise a reward and say what all evaluators think of the result, rounded to 8 bits as files are.

        Args:
            levels: largest change of a channel, of 255.

        Returns:
            Gains in standard deviations between images of one prompt; a scorer without any is left out.
        """
        before, control = self.before, self.control(levels)
        raised_images = []
        with progress(f"raise {reward.name} by {levels}/255", len(self.prompts), "image") as bar:
            for rows, pixels in self.batches:
                self.pool.use(reward)
                told = [self.prompts[row] for row in rows]
                raised_images.append(raised(reward, pixels.to(reward.device), told, levels / 255, num_steps).cpu())
                bar.update(len(rows))
        after = self._scores(raised_images)
        found: dict[str, OtherGain] = {}
        for place, evaluator in enumerate(self.evaluators):
            if not (spread := self.spreads[evaluator.name]) > 0:
                continue
            noise = float((control[place] - before[place]).mean() / spread)
            gain = float((after[place] - before[place]).mean() / spread) - noise
            won = float((0.5 + np.sign(after[place] - before[place]) / 2).mean())
            related = evaluator.name in reward.lineage or reward.name in evaluator.lineage
            found[evaluator.name] = OtherGain(evaluator.name, gain, noise, won, related)
        own = found.pop(reward.name, OtherGain(reward.name, 0.0, 0.0, 0.5, True))
        outside = [one for one in found.values() if not one.in_lineage]
        return PixelAscent(
            data=self.data,
            levels=levels,
            num_steps=num_steps,
            num_images=before.shape[1],
            gain=own.gain,
            control=own.control,
            won=own.won,
            others=list(found.values()),
            exploitability=own.gain - max(one.gain for one in outside) if outside else None,
            others_won=float(np.median([one.won for one in outside])) if outside else None,
        )

    @torch.no_grad()
    def _scores(self, shown: Sequence[Tensor]) -> Floats:
        """Return what all evaluators think of batches of changed images, [evaluators, images]."""
        found = np.zeros((len(self.evaluators), len(self.prompts)))
        for (rows, _), pixels in zip(self.batches, shown, strict=True):
            told = [self.prompts[row] for row in rows]
            given = scores_of(self.evaluators, [_picture(one) for one in pixels], told, self.pool)
            for place, (evaluator, scores) in enumerate(zip(self.evaluators, given, strict=True)):
                found[place, rows] = np.array(scores) * (1.0 if evaluator.higher_is_better else -1.0)
        return found


def _rows(images: Sequence[Image.Image], batch_size: int) -> list[list[int]]:
    """Return the numbers of images of one size in batches."""
    by_size: dict[tuple[int, int], list[int]] = {}
    for number, image in enumerate(images):
        by_size.setdefault(image.size, []).append(number)
    return [rows[start : start + batch_size] for rows in by_size.values() for start in range(0, len(rows), batch_size)]


def _pixels(image: Image.Image) -> Tensor:
    array = np.asarray(rgb(image), dtype=np.float32) / 255
    return torch.from_numpy(array).permute(2, 0, 1)


def _picture(pixels: Tensor) -> Image.Image:
    levels = (pixels * 255).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).numpy())
