"""Sampling steps that add fresh noise: Gaussians whose log-probability a policy gradient can differentiate.

All of them have one form. With the latents and the noise that a prediction takes the noisy latents to consist of,

    next_latents = next.alpha * latents + direction * noise + std * z,      z a unit Gaussian

and a kernel is a rule for `std` and `direction`. Without fresh noise (`std` 0) `direction` is next.sigma, and the step
is the deterministic one of the schedule: DDIM, flow Euler.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from alignbench.diffusion.schedule import Level, NoiseSchedule
from alignbench.errors import UserError
from alignbench.settings.section import NotNegative

KernelKind = Literal["flow", "dance", "ddim", "cps"]
Reduction = Literal["mean", "sum"]
LogProbScale = Literal["gaussian", "unscaled"]
MIN_STD = 0.01  # a step with less fresh noise has log-probabilities that are mostly rounding


@dataclass(frozen=True, eq=False)
class Transition:
    """One step of a stochastic sampler: the next latents are Gaussian.

    Attributes:
        mean: [B, C, h, w].
        std: standard deviation, float64, [] or [B].
    """

    mean: Tensor
    std: Tensor

    def draw(self, noise: Tensor) -> Tensor:
        """Return the next latents that unit Gaussian `noise` [B, C, h, w] leads to."""
        std = self.std.to(self.mean).reshape(-1, *(1,) * (self.mean.ndim - 1))
        return self.mean + std * noise.to(self.mean)


@dataclass(frozen=True)
class TransitionKernel:
    """How much fresh noise a step adds, and how much of the predicted noise makes room for it.

    Attributes:
        kind: the rule. `flow` and `dance` discretise a stochastic differential equation that has the marginals of the
            model. `ddim` draws from the posterior of the noise process. `cps` keeps the total share of noise of each
            level, at any amount of fresh noise.
        noise: amount of fresh noise; 0 is the deterministic step. `flow`: a of the diffusion a sqrt(tau / (1 - tau));
            `dance`: the diffusion itself; `ddim`: eta, where 1 is ancestral sampling; `cps`: a of the share
            sin(a pi / 2) of the next level's noise.

    Source: `flow`: Liu et al. 2025 (Flow-GRPO), sd3_sde_with_logprob.py. `dance`: Xue et al. 2025 (DanceGRPO). `ddim`:
    Song et al. 2021 (DDIM), equation 16. `cps`: Wang and Yu 2025 (Flow-CPS). The first two are published for flow
    models alone; other models are sampled by them as the flow model they equal after division by alpha + sigma. `ddim`
    for flow models and `cps` for others are ours, too.
    """

    kind: KernelKind
    noise: NotNegative

    def __post_init__(self) -> None:
        if self.kind == "ddim" and self.noise > 1:
            raise ValueError(
                f"method.kernel.noise={self.noise:g} must be at most 1 with method.kernel.kind=ddim: there is no more "
                "noise to make fresh"
            )

    def std_and_direction(self, level: Level, next_level: Level) -> tuple[Tensor, Tensor]:
        """Return the standard deviation of the fresh noise and the factor on the predicted noise, float64."""
        if self.kind == "ddim":
            std = self.noise * next_level.sigma * (1 - (next_level.rho / level.rho).square()).sqrt()
        elif self.kind == "cps":
            std = next_level.sigma * math.sin(self.noise * math.pi / 2)
        else:
            std, drift = self._of_differential_equation(level, next_level)
            return std, next_level.sigma - drift
        return std, (next_level.sigma.square() - std.square()).sqrt()

    def _of_differential_equation(self, level: Level, next_level: Level) -> tuple[Tensor, Tensor]:
        """Return std, and what the drift that balances the fresh noise takes from the predicted noise."""
        tau, next_tau = level.tau, next_level.tau
        diffusion = torch.full_like(tau, self.noise)
        if self.kind == "flow":
            clean = 1 - torch.where(
                tau == 1, next_tau, tau
            )  # nothing is clean at pure noise, where the rule is infinite
            diffusion = diffusion * (tau / clean).sqrt()
        variance, scale = diffusion.square() * (tau - next_tau), next_level.alpha + next_level.sigma
        return scale * variance.sqrt(), scale * variance / (2 * tau)

    def transition(
        self, schedule: NoiseSchedule, noisy_latents: Tensor, prediction: Tensor, level: Level, next_level: Level
    ) -> Transition:
        """Return where a step leads.

        Args:
            noisy_latents, prediction: at `level`, [B, C, h, w].
            level, next_level: each [] or [B]; the next one is cleaner.
        """
        std, direction = self.std_and_direction(level, next_level)
        mean = schedule.step(noisy_latents, prediction, level, Level(next_level.alpha, direction))
        return Transition(mean, std)

    def sensitivity(self, schedule: NoiseSchedule, level: Level, next_level: Level) -> Tensor:
        """Return how far the mean moves when the prediction does, |d mean / d prediction|, float64, [] or [B]."""
        _, direction = self.std_and_direction(level, next_level)
        return schedule.step_coefficients(level, Level(next_level.alpha, direction))[1].abs()


def require_fresh_noise(std: Tensor) -> None:
    """Refuse steps that have no usable log-probability.

    Raises:
        UserError: if a standard deviation is below `MIN_STD`.
    """
    if float(std.min()) < MIN_STD:
        raise UserError(
            f"a random step adds noise of standard deviation {float(std.min()):.2g}, and a log-probability needs at "
            f"least {MIN_STD}; lower method.window.stop, which leaves the cleanest steps out, or raise "
            "method.kernel.noise"
        )


def log_prob(
    value: Tensor, transition: Transition, reduction: Reduction = "mean", scale: LogProbScale = "gaussian"
) -> Tensor:
    """Return the log-probability density of next latents, [B], float64.

    Args:
        value: [B, C, h, w].
        reduction: over the elements of the latents. All published codes take the `mean`: a ratio of such
            probabilities is the root, of as many elements as there are, of the true one.
        scale: `unscaled` is minus the squared distance from the mean alone, without the factor 1 / (2 std^2) and the
            constants, as in the code of Flow-CPS: differences are those of `gaussian` times 2 std^2.

    Raises:
        UserError: if the standard deviation is too small for `gaussian`.
    """
    distance = _reduce((value.double() - transition.mean.double()).square(), reduction)
    if scale == "unscaled":
        return -distance
    require_fresh_noise(transition.std)
    std = transition.std.to(distance)
    normaliser = std.log() + math.log(2 * math.pi) / 2
    num_elements = 1 if reduction == "mean" else value[0].numel()
    return -distance / (2 * std.square()) - num_elements * normaliser


def divergence(transition: Transition, other: Transition, reduction: Reduction = "mean") -> Tensor:
    """Return the Kullback-Leibler divergence of two transitions of the same standard deviation, [B], float64.

    Args:
        reduction: `sum` is the divergence; `mean` divides it by the number of elements.

    Raises:
        UserError: if the standard deviation is too small.
    """
    require_fresh_noise(transition.std)
    distance = _reduce((transition.mean.double() - other.mean.double()).square(), reduction)
    return distance / (2 * transition.std.to(distance).square())


def _reduce(elements: Tensor, reduction: Reduction) -> Tensor:
    flat = elements.flatten(1)
    return flat.mean(1) if reduction == "mean" else flat.sum(1)
