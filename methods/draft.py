"""DRaFT: differentiate a reward through the last K steps of the sampling; AlignProp: the same with a random K.

Papers: Clark et al. 2023, "Directly Fine-Tuning Diffusion Models on Differentiable Rewards", arXiv 2309.17400 (no
released code); Prabhudesai et al. 2023, "Aligning Text-to-Image Diffusion Models with Reward Backpropagation",
arXiv 2310.03739, code mihirp1998/AlignProp. DRaFT+ (a distance from the reference): NVIDIA/NeMo-Aligner. Written from
the mathematics.

Deviations: K is drawn once an update and is the same on all processes, which therefore call the network equally often
(AlignProp's code draws one for each micro-batch and process); steps before the last K are taken without a gradient,
which is the same as detaching their predictions; sampling is deterministic (AlignProp's current code adds noise, eta 1,
its first release did not); the reward sees pixels in 0..1. Levels can end above the model's own, and flow models are
ours.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from alignbench.batch import PromptBatch
from alignbench.context import Context
from alignbench.errors import UserError
from alignbench.models.adapter import ModelAdapter
from alignbench.settings.section import Count, CountOrZero, Positive, Share
from methods.reward_gradient import LastSteps, RewardGradient

Draw = Literal["fixed", "uniform", "gaussian"]


@dataclass(frozen=True)
class Truncation:
    """Draws through how many of the last steps the gradient goes.

    Attributes:
        draw: `fixed`: always `num_steps`; `uniform` and `gaussian` draw where the gradient begins.
        num_steps: K, for `fixed`.
        earliest: for `uniform`, share of the steps that comes before the earliest beginning.
        mean, std: for `gaussian`, of the share of the steps that comes before the beginning.
    """

    draw: Draw
    num_steps: Count
    earliest: Share
    mean: Share
    std: Positive

    def most_steps(self, num_steps: int) -> int:
        """Return the largest K; of a Gaussian the one that is exceeded in one update of 700."""
        if self.draw == "fixed":
            return self.num_steps
        if self.draw == "uniform":
            return num_steps - min(round(self.earliest * num_steps), num_steps - 1)
        earliest = round((self.mean - 3 * self.std) * num_steps, 6)  # 0.54 of 50 steps is not quite 27 in binary
        return num_steps - max(math.floor(earliest), 0)

    def num_grad_steps(self, num_steps: int, generator: torch.Generator) -> int:
        """Return K, from 1 to `num_steps`, the number of steps of the sampling.

        Raises:
            UserError: if a fixed K is more than that.
        """
        if self.draw == "fixed":
            if self.num_steps > num_steps:
                raise UserError(
                    f"method.truncation.num_steps={self.num_steps} is more than the {num_steps} steps of the sampling; "
                    "lower it, raise method.num_rollout_steps, or lower method.min_sigma"
                )
            return self.num_steps
        if self.draw == "uniform":
            return 1 + int(torch.randint(self.most_steps(num_steps), (), generator=generator))
        while True:  # a beginning outside the sampling is drawn again: the gradient goes through one step at least
            normal = float(torch.randn((), generator=generator, dtype=torch.float64))
            start = math.floor((self.mean + self.std * normal) * num_steps)
            if 0 <= start < num_steps:
                return num_steps - start


@dataclass(eq=False, kw_only=True)
class DRaFT(RewardGradient):
    """DRaFT-K, and with `num_copies` DRaFT-LV.

    Attributes:
        truncation: number of steps with a gradient.
        num_copies: with one such step, how often each sampled image is noised anew to the level before it. The last
            step of each copy adds a gradient, so that the average has a smaller variance.
    """

    truncation: Truncation
    num_copies: CountOrZero

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_copies > 0 and (self.truncation.draw, self.truncation.num_steps) != ("fixed", 1):
            raise ValueError(
                f"method.num_copies={self.num_copies} repeats the last step alone; it needs "
                "method.truncation.draw=fixed and method.truncation.num_steps=1"
            )

    @classmethod
    def most_steps(cls, settings: Mapping[str, Any]) -> int:
        truncation = {key: value for key, value in settings["truncation"].items() if key != "_target_"}
        return Truncation(**truncation).most_steps(settings["num_rollout_steps"])

    def rolled_out(self, model: ModelAdapter, batch: PromptBatch, context: Context) -> list[LastSteps]:
        levels = self.noise_levels(model)
        # one draw for all processes, so that all call the network equally often
        num_grad_steps = self.truncation.num_grad_steps(len(levels), context.shared_generator("truncation"))
        first = len(levels) - num_grad_steps
        last = levels.steps(first, len(levels))
        noise = self.initial_noise(model, batch, context)
        states = [self.walk(model, batch, noise, levels.steps(0, first)).latents]
        if self.num_copies > 0:
            clean = self.walk(model, batch, states[0], last).latents
            for number in range(self.num_copies):
                noise = context.noise(batch.index, model.latent_shape, f"copy{number}").to(clean.device)
                states.append(model.schedule.add_noise(clean, noise, last.level[0]))
        return [LastSteps.of(batch, state, last) for state in states]
