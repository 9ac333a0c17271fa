"""How far a run has come, and what ends its training."""

import math
from dataclasses import dataclass

from omegaconf import DictConfig

from alignbench.training.checkpoint import Counters


@dataclass
class Progress(Counters):
    """Where a run stands and what all its processes have used; part of every checkpoint."""

    rollouts: int = 0
    samples_seen: int = 0
    network_passes: int = 0
    reward_calls: int = 0


@dataclass(frozen=True)
class Limits:
    """What ends training: the first of these that is reached, after the rollout that reaches it.

    Attributes:
        steps: optimizer updates.
        network_passes: of all processes; infinite for no limit.
        seconds: of `Progress.train_seconds`; infinite for no limit.
    """

    steps: int
    network_passes: float = math.inf
    seconds: float = math.inf

    @classmethod
    def of(cls, settings: DictConfig) -> "Limits":
        """Return those that `train` sets."""
        passes, minutes = settings.max_network_passes, settings.max_train_minutes
        return cls(
            settings.max_train_steps,
            math.inf if passes is None else passes,
            math.inf if minutes is None else 60 * minutes,
        )

    def reached(self, progress: Progress) -> bool:
        """Say whether training ends here."""
        return (
            progress.step >= self.steps
            or progress.network_passes >= self.network_passes
            or progress.train_seconds >= self.seconds
        )

    def expected_steps(self, progress: Progress) -> int:
        """Return the number of updates that training will have made in the end if it goes on as so far."""
        if self.reached(progress):
            return progress.step
        used = max(progress.network_passes / self.network_passes, progress.train_seconds / self.seconds)
        return self.steps if used == 0 else min(self.steps, math.ceil(progress.step / used))
