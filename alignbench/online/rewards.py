"""The scores of rolled-out images: by any evaluator, through its published path, one component after the other."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from alignbench.evaluator import Evaluator


def pictures(pixels: Tensor) -> list[Image.Image]:
    """Return pixels [N, 3, H, W] in 0..1 as pictures of 8 bits a channel, as they would be saved."""
    levels = (pixels.detach().float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(np.ascontiguousarray(picture)) for picture in levels]


class ImageScorer:
    """Scores images batch by batch.

    Evaluators without a network of their own (another program, a server) work in a thread while the next batch is
    sampled; those with one share the device with the policy and score at once. The scores are the same.

    Args:
        reward: one evaluator, or a sum of several.
    """

    def __init__(self, reward: Evaluator) -> None:
        self.evaluators = [evaluator for _, evaluator in reward.components.values()]
        self._threads = ThreadPoolExecutor(max_workers=1)
        self._batches: list[list[Tensor | Future[Tensor]]] = []

    def add(self, pixels: Tensor, prompts: Sequence[str]) -> None:
        """Begin to score images [N, 3, H, W] in 0..1."""
        images = pictures(pixels)
        self._batches.append(
            [
                self._threads.submit(evaluator.score, images, prompts, len(images))
                if evaluator.network is None
                else evaluator.score(images, prompts, len(images))
                for evaluator in self.evaluators
            ]
        )

    def scores(self) -> Tensor:
        """Return the scores of all images, in the order they came, one column an evaluator, [N, K], float32."""
        rows = []
        for batch in self._batches:
            rows.append(torch.stack([one.result() if isinstance(one, Future) else one for one in batch], dim=1))
        self._threads.shutdown()
        return torch.cat(rows)
