"""Which steps of a sampling add fresh noise, and which of these are trained."""

from dataclasses import dataclass
from typing import Literal

import torch

from alignbench.context import Context
from alignbench.settings.section import Count, CountOrZero

WindowChoice = Literal["fixed", "progressive", "random", "scattered"]


@dataclass(frozen=True)
class StepWindow:
    """Chooses the random steps of the samplings of a round; all others are deterministic. Step 0 starts at pure noise.

    Attributes:
        first, stop: the steps to choose from, `stop` excluded; None: all but the last, which has hardly any noise.
        size: how many of them are random; None: all.
        choice: `fixed`: the first ones. `progressive`: consecutive ones that move on by one step at a time, are fewer
            where they meet `stop`, and begin again. `random`: consecutive ones from a new place each round.
            `scattered`: new ones each round, in any places.
        rounds_per_position: rounds until a `progressive` window moves on.
        num_trained: how many of the random steps are trained, drawn anew each round; None: all.

    Raises:
        ValueError: if there are fewer steps than are to be chosen.
    """

    first: CountOrZero
    stop: Count | None
    size: Count | None
    choice: WindowChoice
    rounds_per_position: Count
    num_trained: Count | None

    def __post_init__(self) -> None:
        if self.stop is not None and self.stop <= self.first:
            raise ValueError(
                f"method.window.stop={self.stop} must be above method.window.first={self.first}: a window has steps"
            )
        if self.size is not None and self.num_trained is not None and self.num_trained > self.size:
            raise ValueError(
                f"method.window.num_trained={self.num_trained} must be at most method.window.size={self.size}"
            )

    def check(self, num_rollout_steps: int) -> None:
        """Refuse steps that a sampling of so many does not have.

        Raises:
            ValueError: naming the setting.
        """
        stop = self._stop(num_rollout_steps)
        if stop > num_rollout_steps:
            raise ValueError(
                f"method.window.stop={self.stop} must be at most method.num_rollout_steps={num_rollout_steps}"
            )
        for key, value in (("size", self.size), ("num_trained", self.num_trained)):
            if value is not None and value > stop - self.first:
                raise ValueError(
                    f"method.window.{key}={value} is more than the steps from method.window.first={self.first} to "
                    f"method.window.stop={stop} (excluded); lower it, or widen them"
                )
        if stop <= self.first:
            raise ValueError(
                f"method.window.first={self.first} leaves no step of method.num_rollout_steps={num_rollout_steps} but "
                "the last; lower it, or set method.window.stop"
            )

    def random_steps(self, num_rollout_steps: int, num_rounds: int, context: Context) -> list[int]:
        """Return the steps that add noise in this round, in ascending order.

        Args:
            num_rounds: rounds before this one.
        """
        stop = self._stop(num_rollout_steps)
        size = stop - self.first if self.size is None else self.size
        generator = context.shared_generator("window")
        if self.choice == "scattered":
            places = torch.randperm(stop - self.first, generator=generator)[:size]
            return sorted((self.first + places).tolist())
        start = self.first
        if self.choice == "progressive":
            start += num_rounds // self.rounds_per_position % (stop - self.first)
        elif self.choice == "random":
            start += int(torch.randint(stop - self.first - size + 1, (), generator=generator))
        return list(range(start, min(start + size, stop)))

    def trained_steps(self, random_steps: list[int], context: Context) -> list[int]:
        """Return those of this round's random steps that are trained, in ascending order."""
        order = torch.randperm(len(random_steps), generator=context.shared_generator("trained steps"))
        return sorted(random_steps[place] for place in order[: self.num_trained].tolist())

    def _stop(self, num_rollout_steps: int) -> int:
        return num_rollout_steps - 1 if self.stop is None else self.stop
