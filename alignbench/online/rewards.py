"""The scores of rolled-out images and videos. A video has the mean over its frames.

`ImageScorer` takes any evaluator, through its published path, one component after the other. `reward_of` and
`embedding_of` are for methods that differentiate a reward.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from alignbench.evaluator import Evaluator, Reward


def reward_of(reward: Reward, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
    """Return the reward of each image or video, [B], with a gradient.

    Args:
        pixels: in 0..1, [B, 3, H, W] or [B, T, 3, H, W].
    """
    return _over_frames(lambda frames: reward.reward(frames, prompts), pixels)


def embedding_of(reward: Reward, pixels: Tensor) -> Tensor:
    """Return what meets the reward's text features, [B, D], with a gradient: of a video the mean over its frames.

    Its product with text features is then the mean over the frames, too.

    Args:
        pixels: as for `reward_of`.
    """
    return _over_frames(lambda frames: reward.embed_image(frames).float(), pixels)


def _over_frames(of_images: Callable[[Tensor], Tensor], pixels: Tensor) -> Tensor:
    """Return the mean of what a function of images returns for each frame; frames keep no activations."""
    if pixels.ndim == 4:
        return of_images(pixels)
    frames = [checkpoint(of_images, frame, use_reentrant=False) for frame in pixels.unbind(1)]
    return torch.stack([cast(Tensor, frame) for frame in frames]).mean(0)


def pictures(pixels: Tensor) -> list[Image.Image]:
    """Return pixels [N, 3, H, W] in 0..1 as pictures of 8 bits a channel, as they would be saved."""
    levels = (pixels.detach().float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(np.ascontiguousarray(picture)) for picture in levels]


class ImageScorer:
    """Scores images batch by batch.

    Evaluators without a network of their own (another program, a server) work in a thread while the next batch is
    sampled; those with one share the device with the policy and score at once. The scores are the same. An evaluator
    that sees groups gets one group a call, whatever the batches.

    Args:
        reward: one evaluator, or a sum of several.
        group_size: images of a prompt that are compared; they come one after the other, in whole groups.
    """

    def __init__(self, reward: Evaluator, group_size: int = 1) -> None:
        self.evaluators = [evaluator for _, evaluator in reward.components.values()]
        self.group_size = group_size
        self._threads = ThreadPoolExecutor(max_workers=1)
        self._scores: list[list[Tensor | Future[Tensor]]] = [[] for _ in self.evaluators]
        self._waiting: list[tuple[list[Image.Image], str]] = []  # of a group that is not whole yet

    def add(self, pixels: Tensor, prompts: Sequence[str]) -> None:
        """Begin to score images [N, 3, H, W] or videos [N, T, 3, H, W] in 0..1."""
        videos = [pictures(one.reshape(-1, *one.shape[-3:])) for one in pixels]
        self._begin(videos, prompts, whole_groups=False)
        self._waiting += zip(videos, prompts, strict=True)
        while len(self._waiting) >= self.group_size:
            group, self._waiting = self._waiting[: self.group_size], self._waiting[self.group_size :]
            self._begin([video for video, _ in group], [prompt for _, prompt in group], whole_groups=True)

    def _begin(self, videos: list[list[Image.Image]], prompts: Sequence[str], whole_groups: bool) -> None:
        """Begin to score videos by the evaluators that see groups, or by those that do not."""
        for evaluator, scores in zip(self.evaluators, self._scores, strict=True):
            if evaluator.sees_group != whole_groups:
                continue
            if evaluator.network is None:
                scores.append(self._threads.submit(evaluator.score_videos, videos, prompts, len(videos)))
            else:
                scores.append(evaluator.score_videos(videos, prompts, len(videos)))

    def scores(self) -> Tensor:
        """Return the scores of all images, in the order they came, one column an evaluator, [N, K], float32."""
        try:
            columns = [
                torch.cat([one.result() if isinstance(one, Future) else one for one in scores])
                for scores in self._scores
            ]
        finally:
            self._threads.shutdown(cancel_futures=True)  # after an error, nobody is to be asked about the others
        return torch.stack(columns, dim=1)
