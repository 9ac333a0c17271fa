"""PNAPO: Diffusion-DPO on images of the model's own, each mixed with the noise that it was made from.

Paper: Lu et al. 2026, "Offline Preference Optimization for Rectified Flow with Noise-Tracked Pairs", arXiv 2605.09433.
No code was found; this is written from the mathematics of the abstract. Along a nearly straight path from noise to
image the mixture is a state that the model itself has passed, so the reference explains it well, and margins vary less.

Left out: the paper adapts beta to the reward gap and to the progress of training, by a rule that is not known here.
"""

from alignbench.batch import GeneratedPairBatch, PairBatch
from alignbench.context import Context
from alignbench.models.adapter import ModelAdapter
from alignbench.objectives.denoising_error import Noised, add_noise, draw_timesteps
from methods.dpo import DPO


class PNAPO(DPO):
    """PNAPO. Its arguments are those of `DPO`.

    Winner and loser of a pair share the timestep but not the noise, so images that are the same do not cancel.
    """

    batch_type = GeneratedPairBatch

    def noised(self, model: ModelAdapter, batch: PairBatch, context: Context) -> Noised:
        assert isinstance(batch, GeneratedPairBatch)
        timesteps = draw_timesteps(model, batch.index, batch.latents_w, context)
        both = ((batch.latents_w, batch.noise_w), (batch.latents_l, batch.noise_l))
        return Noised.cat([add_noise(model, image, own, timesteps, self.error_weighting) for image, own in both])
