"""In which order samples are shown that lie in blocks: shuffled as far as reading them stays cheap."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from alignbench.errors import UserError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Blocks:
    """Which samples of a view are read together: those whose images lie in one row group of a table, say.

    Attributes:
        block: the block of each sample, any numbers, [N].
        window: how many blocks a reader has room for at once.
    """

    block: np.ndarray
    window: int

    def rows(self, positions: Sequence[int]) -> "Blocks":
        """Return the blocks of some samples alone."""
        return replace(self, block=self.block[np.asarray(positions, np.int64)])

    def halved(self) -> "Blocks":
        """Return the same blocks for one of two readers that share the room.

        Raises:
            UserError: there is room for one block alone.
        """
        if self.window < 2:
            raise UserError(
                "desirable and undesirable images are shown in epochs of their own, so two row groups are needed at "
                "once, and data.window_mib has room for one; double it, or set data.window_mib=null if latents are "
                "prepared"
            )
        return replace(self, window=self.window // 2)

    def shuffled(self, generator: "torch.Generator") -> list[int]:
        """Return all positions in a random order that comes to each block in one window, and then never again.

        The blocks are shuffled and dealt into windows; the samples of a window are shuffled together. So two samples
        that are shown one after the other come from at most `window` blocks, but for the passage to the next window.
        """
        import torch

        blocks, own = np.unique(self.block, return_inverse=True)
        place = torch.randperm(len(blocks), generator=generator).numpy()  # of each block among all
        draws = torch.randperm(len(own), generator=generator).numpy()
        return np.lexsort((draws, place[own] // self.window)).tolist()
