"""Advantages over what earlier images of the same prompt scored, for prompts that come back."""

import hashlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from alignbench.settings.section import Count, Positive

EPSILON = 1e-6  # added to a standard deviation; released code of DDPO


@dataclass(eq=False)
class RewardTracker:
    """Keeps the last rewards of each prompt. All processes see all rewards, so their trackers are alike.

    Attributes:
        buffer_size: how many rewards of a prompt are kept, the newest ones.
        min_count: with fewer rewards of a prompt, its images are compared with all images of the round.
        clip: largest absolute advantage; None for no limit.

    Source: Black et al. 2023 (DDPO), section 4; kvablack/ddpo-pytorch, stat_tracking.py.
    """

    buffer_size: Count
    min_count: Count
    clip: Positive | None
    _buffers: dict[int, deque[float]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.min_count > self.buffer_size:
            raise ValueError(
                f"method.advantage.min_count={self.min_count} must be at most method.advantage.buffer_size="
                f"{self.buffer_size}: no prompt would ever have so many rewards"
            )

    def of(self, rewards: Tensor, weights: Tensor, prompts: Tensor) -> Tensor:
        """Take in the rewards of a round and return the advantage of each of its images, [N], float64.

        Args:
            rewards: one column a reward, [N, K].
            weights: of the rewards, [K].
            prompts: number of the prompt of each image, [N], int64, as by `prompt_numbers`.
        """
        total = rewards.double().cpu() @ weights.double().cpu()
        numbers = prompts.tolist()
        for number, reward in zip(numbers, total.tolist(), strict=True):
            self._buffers.setdefault(number, deque(maxlen=self.buffer_size)).append(reward)
        advantages = torch.empty_like(total)
        for row, number in enumerate(numbers):
            known = self._buffers[number]
            others = torch.tensor(known, dtype=torch.float64) if len(known) >= self.min_count else total
            advantages[row] = (total[row] - others.mean()) / (others.std(correction=0) + EPSILON)
        if self.clip is not None:
            advantages = advantages.clamp(-self.clip, self.clip)
        return advantages.to(rewards.device)

    def state_dict(self) -> dict[str, Any]:
        """Return the rewards that are kept, oldest first, by prompt."""
        return {str(number): list(known) for number, known in self._buffers.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self._buffers = {int(number): deque(known, maxlen=self.buffer_size) for number, known in state.items()}


def prompt_numbers(prompts: Sequence[str]) -> Tensor:
    """Return a number for each prompt that is the same wherever the same text is, [N], int64."""
    digests = [hashlib.sha256(prompt.encode()).digest()[:8] for prompt in prompts]
    return torch.tensor([int.from_bytes(digest, "little", signed=True) for digest in digests])
