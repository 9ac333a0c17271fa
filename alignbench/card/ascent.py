"""How far a reward is raised by small changes of pixels, and whether anybody else notices."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from alignbench.card.scoring import scores_of
from alignbench.evaluator import Evaluator, Reward
from alignbench.images import rgb
from alignbench.scoring.network_pool import NetworkPool
from alignbench.store.cards import OtherGain, PixelAscent
from alignbench.terminal.endings import is_main

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


def ascent(
    reward: Reward,
    evaluators: Sequence[Evaluator],
    images: Sequence[Image.Image],
    prompts: Sequence[str],
    levels: int,
    num_steps: int,
    data: str,
    batch_size: int,
    pool: NetworkPool,
    seed: int,
) -> PixelAscent:
    """Raise a reward on images and say what all evaluators think of the result, files of 8 bits as they are.

    Args:
        evaluators: all scorers that are asked; the reward is among them.
        levels: largest change of a channel, of 255.

    Returns:
        Gains in standard deviations over the images; a scorer that gives all images one score is left out.
    """
    before, after, control = (np.zeros((len(evaluators), len(images))) for _ in range(3))
    bar = tqdm(
        total=len(images),
        desc=f"raise {reward.name} by {levels}/255",
        unit="image",
        delay=1,
        dynamic_ncols=True,
        leave=False,
        disable=not is_main(),
    )
    with bar:
        for size, numbers in _of_one_size(images, batch_size):
            del size
            pixels = torch.stack([_pixels(images[number]) for number in numbers])
            told = [prompts[number] for number in numbers]
            pool.use(reward)
            up = raised(reward, pixels.to(reward.device), told, levels / 255, num_steps).cpu()
            noisy = with_random_signs(pixels, levels / 255, seed)
            for values, shown in ((before, pixels), (after, up), (control, noisy)):
                pictures = [_picture(one) for one in shown]
                with torch.no_grad():
                    for place, (given, _) in enumerate(scores_of(evaluators, pictures, told, pool)):
                        sign = 1.0 if evaluators[place].higher_is_better else -1.0
                        values[place, numbers] = sign * np.array(given)
            bar.update(len(numbers))
    return _figures(reward, evaluators, before, after, control, levels, num_steps, data)


def _figures(
    reward: Reward,
    evaluators: Sequence[Evaluator],
    before: Floats,
    after: Floats,
    control: Floats,
    levels: int,
    num_steps: int,
    data: str,
) -> PixelAscent:
    spread = before.std(axis=1)
    found: dict[str, OtherGain] = {}
    for place, evaluator in enumerate(evaluators):
        if not spread[place] > 0:
            continue
        noise = float((control[place] - before[place]).mean() / spread[place])
        gain = float((after[place] - before[place]).mean() / spread[place]) - noise
        won = (0.5 + np.sign(after[place] - before[place]) / 2).mean()
        related = evaluator.name in reward.lineage or reward.name in evaluator.lineage
        found[evaluator.name] = OtherGain(evaluator.name, gain, noise, float(won), related)
    own = found.pop(reward.name, OtherGain(reward.name, 0.0, 0.0, 0.5, True))
    outside = [one for one in found.values() if not one.in_lineage]
    return PixelAscent(
        data=data,
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


def _of_one_size(images: Sequence[Image.Image], batch_size: int) -> list[tuple[tuple[int, int], list[int]]]:
    """Return the numbers of images of one size in batches."""
    by_size: dict[tuple[int, int], list[int]] = {}
    for number, image in enumerate(images):
        by_size.setdefault(image.size, []).append(number)
    return [
        (size, numbers[start : start + batch_size])
        for size, numbers in by_size.items()
        for start in range(0, len(numbers), batch_size)
    ]


def _pixels(image: Image.Image) -> Tensor:
    array = np.asarray(rgb(image), dtype=np.float32) / 255
    return torch.from_numpy(array).permute(2, 0, 1)


def _picture(pixels: Tensor) -> Image.Image:
    levels = (pixels * 255).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).numpy())
