"""The noise levels that a sampling visits."""

from dataclasses import dataclass

import torch
from torch import Tensor

from alignbench.diffusion.schedule import Level


@dataclass(frozen=True, eq=False)
class NoiseLevels:
    """The noise levels one sampling walks down.

    Attributes:
        timesteps: label given to the network before each step, [n], float64, 0..1000, noisy to clean; [n, B] where each
            image has its own.
        level: level of the latents before each step and after the last, alpha and sigma [n + 1] or [n + 1, B].
    """

    timesteps: Tensor
    level: Level

    def __len__(self) -> int:
        return len(self.timesteps)

    def steps(self, start: int, stop: int) -> "NoiseLevels":
        """Return steps `start` to `stop` (exclusive), with the level after the last of them."""
        return NoiseLevels(self.timesteps[start:stop], self.level[start : stop + 1])

    def down_to(self, sigma: float) -> "NoiseLevels":
        """Return the levels without those that have less noise than `sigma`: the last step that is left ends clean.

        Levels that all images share.
        """
        num_kept = int((self.level.sigma[:-1] >= sigma).sum())
        kept, end = self.level[:num_kept], self.level[-1:]
        level = Level(torch.cat([kept.alpha, end.alpha]), torch.cat([kept.sigma, end.sigma]))
        return NoiseLevels(self.timesteps[:num_kept], level)
