"""An average of the trained weights that follows them with a delay: the old policy of online methods."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from alignbench.settings.section import CountOrZero, NotNegative, Share


@dataclass(frozen=True)
class Lag:
    """How far the old policy stays behind: decay(k) = min(start + slope (k - delay), cap) after k updates.

    Before `delay` updates the decay is 0: the old policy is a copy of the policy.

    Source: the schedules of DiffusionNFT (`decay_type` 1: slope 0.001 to 0.5; 2: delay 75, slope 0.0075 to 0.999).
    """

    start: Share
    slope: NotNegative
    cap: Share
    delay: CountOrZero

    def decay(self, num_updates: int) -> float:
        """Return the share of the old policy that is kept after so many optimizer updates, 0..1."""
        if num_updates < self.delay:
            return 0.0
        return min(self.start + self.slope * (num_updates - self.delay), self.cap)


class LaggedWeights:
    """The weights of the old policy, float32 where those of the policy are narrower.

    Args:
        parameters: what is trained, as the loop sees it: whole tensors, or this process's shards of them.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.values = [p.detach().to(torch.promote_types(p.dtype, torch.float32), copy=True) for p in parameters]

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """Move towards the policy: old = decay * old + (1 - decay) * policy. A decay of 0 copies it bit for bit."""
        for value, parameter in zip(self.values, self.parameters, strict=True):
            value.lerp_(parameter.to(value.dtype), 1 - decay)  # equal weights stay equal, unlike in the sum above

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the old policy in the place of the policy, and bring that back bit for bit.

        No graph may be under construction: what it saved would not be what it is run backward with.
        """
        kept = [parameter.detach().clone() for parameter in self.parameters]
        self._put(self.values)
        try:
            yield
        finally:
            self._put(kept)

    @torch.no_grad()
    def _put(self, values: Sequence[torch.Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)
        # Autocast keeps half-precision copies of weights by where they lie, and would go on with those of the others.
        torch.clear_autocast_cache()

    def state_dict(self) -> dict[str, Any]:
        """Return the weights for a checkpoint."""
        return {str(number): value for number, value in enumerate(self.values)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        for number, value in enumerate(self.values):
            value.copy_(state[str(number)])
