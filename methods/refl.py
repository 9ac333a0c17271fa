"""ReFL: stop the sampling at a random late step, guess the clean image from there, and follow its reward.

Paper: Xu et al. 2023, "ImageReward: Learning and Evaluating Human Preferences for Text-to-Image Generation",
arXiv 2304.05977, algorithm 1. Reference code: THUDM/ImageReward, ReFL.py. Written from the mathematics.

Deviations: the step is drawn for each image, as in the paper (the code draws one for each micro-batch), from the last
steps of any number; the model's own deterministic sampler, where the code has DDPM; guidance, where a family's images
need it. The paper's pre-training loss is `auxiliary=denoising`, which the released code for Stable Diffusion 1.4 lacks.
Flow models are ours: the clean image is x - sigma v.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from alignbench.batch import PromptBatch
from alignbench.context import Context
from alignbench.diffusion.schedule import Level
from alignbench.models.adapter import ModelAdapter
from alignbench.settings.section import Share
from methods.reward_gradient import LastSteps, RewardGradient


def stop_steps(uniform: Tensor, num_steps: int, earliest: float) -> Tensor:
    """Return the step at which each image is stopped, [B], int64, `num_steps` - 1 at the latest.

    Args:
        uniform: numbers in 0..1 (excluded), [B].
        num_steps: of the sampling.
        earliest: share of the steps that comes before the earliest stop.
    """
    first = min(round(earliest * num_steps), num_steps - 1)
    return first + (uniform * (num_steps - first)).long()


@dataclass(eq=False, kw_only=True)
class ReFL(RewardGradient):
    """ReFL.

    Attributes:
        earliest: share of the sampling steps that comes before the earliest one with a gradient.
    """

    earliest: Share

    def rolled_out(self, model: ModelAdapter, batch: PromptBatch, context: Context) -> list[LastSteps]:
        levels = self.noise_levels(model)
        noise = self.initial_noise(model, batch, context)
        # up to the last step for every image, so that all processes call the network equally often
        walked = self.walk(model, batch, noise, levels.steps(0, len(levels) - 1), keep_states=True)
        states = [*walked.noisy_latents, walked.latents]
        stop = stop_steps(context.uniform(batch.index, "stop"), len(levels), self.earliest)
        level = levels.level[stop]
        steps = LastSteps(
            batch.index,
            batch.prompts,
            batch.conditioning,
            noisy_latents=torch.stack([states[number][row] for row, number in enumerate(stop.tolist())]),
            timesteps=levels.timesteps[stop][:, None],
            level=Level(  # one step to the clean image
                torch.stack([level.alpha, torch.ones_like(level.alpha)], dim=1),
                torch.stack([level.sigma, torch.zeros_like(level.sigma)], dim=1),
            ),
        )
        return [steps]
