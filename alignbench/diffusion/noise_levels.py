"""The noise levels that a sampling visits."""

from dataclasses import dataclass

from torch import Tensor

from alignbench.diffusion.schedule import Level


@dataclass(frozen=True, eq=False)
class NoiseLevels:
    """The noise levels one sampling walks down.

    Attributes:
        timesteps: label given to the network before each step, [n], float64, 0..1000, noisy to clean.
        level: level of the latents before each step and after the last, alpha and sigma [n + 1].
    """

    timesteps: Tensor
    level: Level

    def __len__(self) -> int:
        return len(self.timesteps)
