"""At which noise levels a rolled-out image is trained."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from alignbench.context import Context
from alignbench.diffusion.noise_levels import NoiseLevels
from alignbench.settings.section import Count, CountOrZero

Draw = Literal["shuffled", "stratified"]


@dataclass(frozen=True)
class TrainedLevels:
    """Draws some of the levels that the sampler visits.

    Attributes:
        num: levels an image is trained at in a round.
        first, stop: the levels to draw from, as entries of the sampler's: 0 is pure noise, `stop` is excluded.
        draw: `shuffled`: without replacement; `stratified`: one from each of `num` equal parts.
        shared: whether all images of a round have the same levels, or each its own.

    Raises:
        ValueError: if there are fewer levels than are to be drawn.
    """

    num: Count
    first: CountOrZero
    stop: Count
    draw: Draw
    shared: bool

    def __post_init__(self) -> None:
        if self.stop - self.first < self.num:
            raise ValueError(
                f"method.levels.num={self.num} is more than the levels from method.levels.first={self.first} to "
                f"method.levels.stop={self.stop} (excluded); lower it, or widen them"
            )

    def check(self, num_rollout_steps: int) -> None:
        """Refuse entries that a sampling of so many steps does not have.

        Raises:
            ValueError: naming the setting.
        """
        if self.stop > num_rollout_steps:
            raise ValueError(
                f"method.levels.stop={self.stop} must be at most method.num_rollout_steps={num_rollout_steps}"
            )

    def timesteps(self, index: Tensor, noise_levels: NoiseLevels, context: Context) -> Tensor:
        """Return the timesteps of each image, [B, num], float64, in the order they are trained."""
        if self.shared:
            entries = self.entries(context.shared_generator("levels")).expand(len(index), -1)
        else:
            rows = [self.entries(context.sample_generator(int(i), "levels")) for i in index]
            entries = torch.stack(rows)
        return noise_levels.timesteps.double().cpu()[entries]

    def entries(self, generator: torch.Generator) -> Tensor:
        """Draw the entries of one image, [num], int64."""
        if self.draw == "shuffled":
            return self.first + torch.randperm(self.stop - self.first, generator=generator)[: self.num]
        edges = torch.linspace(self.first, self.stop, self.num + 1, dtype=torch.float64).long()
        uniform = torch.rand(self.num, generator=generator, dtype=torch.float64)
        return edges[:-1] + (uniform * edges.diff()).long()
