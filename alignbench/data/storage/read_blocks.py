"""The order of samples whose images are read in blocks: shuffled within the blocks that fit into memory."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from alignbench.errors import UserError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Blocks:
    """Which samples of a view are read together, such as those whose images are in one row group of a table.

    Attributes:
        block: number of each sample's block, [N]; any integers.
        window: number of blocks that fit into a reader's memory.
    """

    block: np.ndarray
    window: int

    def rows(self, positions: Sequence[int]) -> "Blocks":
        """Return the blocks of some samples."""
        return replace(self, block=self.block[np.asarray(positions, np.int64)])

    def halved(self) -> "Blocks":
        """Return the same blocks for one of two readers that share the memory.

        Raises:
            UserError: only one block fits into memory.
        """
        if self.window < 2:
            raise UserError(
                "desirable and undesirable images are shown in epochs of their own, so two row groups must fit into "
                "data.window_mib, but only one fits; double it, or set data.window_mib=null if latents are prepared"
            )
        return replace(self, window=self.window // 2)

    def shuffled(self, generator: "torch.Generator") -> list[int]:
        """Return all positions in a random order that reads each block once.

        The blocks are shuffled and divided into windows; the samples of a window are shuffled together. So at any time
        the samples come from at most `window` blocks, except at the change from one window to the next.
        """
        import torch

        blocks, own = np.unique(self.block, return_inverse=True)
        rank = torch.randperm(len(blocks), generator=generator).numpy()  # of each block in the new order
        draws = torch.randperm(len(own), generator=generator).numpy()
        return np.lexsort((draws, rank[own] // self.window)).tolist()
