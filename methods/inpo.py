"""InPO: Diffusion-DPO with the votes as they are, at latents that DDIM inversion ties to the two images.

Paper: Lu et al. 2025, "InPO: Inversion Preference Optimization with Reparametrized DDIM for Efficient Diffusion Model
Alignment", arXiv 2503.18454. Reference code: JaydenLyh/InPO, train.py. The ancestor of SmPO, and SmPO without ReNoise
and with kappa = 1.

Deviations (`inpo_upstream` undoes those marked *): the inversion ends at the level of the timestep*, asks with the
timestep it climbs to* and adds no noise*, the inverting network is in evaluation mode*, all in float32; batches may be
larger than one; errors are float32 to the end; models other than Stable Diffusion, flow models included.
"""

import torch

from alignbench.batch import PairBatch
from methods.smpo import InvertedPairs, LabelledPairs


class InPO(InvertedPairs):
    """InPO: every winner is certain. Its arguments are those of `InvertedPairs`."""

    def assign_labels(self, batch: PairBatch) -> LabelledPairs:
        """Take the vote."""
        return LabelledPairs(batch, torch.ones_like(batch.probability_w), {})
