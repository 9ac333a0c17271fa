"""How noise and latents mix, and what a prediction says of both: diffusion and rectified flow in one set of formulas.

    noisy_latents = alpha * latents + sigma * noise

covers the variance-preserving models (alpha^2 + sigma^2 = 1, discrete timesteps) and flow models (alpha + sigma = 1,
continuous). At a known level a prediction and the noisy latents determine latents and noise linearly, so each
prediction type is four coefficients; the step of every deterministic sampler and the recovery of Direct-Align follow
from them. A stochastic kernel starts from `split` as well and returns mean and standard deviation.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from alignbench.errors import UserError

PredictionType = Literal["epsilon", "v_prediction", "velocity"]


@dataclass(frozen=True, eq=False)
class Level:
    """How much of the latents and of the noise is in the noisy latents.

    Attributes:
        alpha, sigma: float64 of one shape: [] for a level that a whole batch shares, [B] for one a sample.
    """

    alpha: Tensor
    sigma: Tensor

    def __getitem__(self, key: int | slice | Tensor) -> "Level":
        return Level(self.alpha[key], self.sigma[key])

    def __len__(self) -> int:
        return len(self.alpha)

    @property
    def rho(self) -> Tensor:
        """Noise-to-signal ratio sigma / alpha, 0 to infinity."""
        return self.sigma / self.alpha

    @property
    def tau(self) -> Tensor:
        """Time of the flow model with the same ratio, sigma / (sigma + alpha): 0 is clean, 1 is pure noise."""
        return self.sigma / (self.sigma + self.alpha)


CLEAN = Level(torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64))


@dataclass(frozen=True, eq=False)
class Decomposition:
    """What a prediction takes noisy latents to consist of; both [B, C, h, w]."""

    latents: Tensor
    noise: Tensor


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """The noise process of one model and the meaning of its prediction.

    Coefficients are float64 and are rounded once, where they meet an image: results are float32 (float64 for float64
    images, so that tests lose no digits).

    Attributes:
        prediction_type: `epsilon` is the noise, `v_prediction` is alpha * noise - sigma * latents, `velocity` is
            noise - latents.
        num_train_timesteps: timesteps of the clean-to-noise range, 1000 for every known model.
        alphas_cumprod: alpha^2 at each integer timestep, [num_train_timesteps], float64; None for flow models.
    """

    prediction_type: PredictionType
    num_train_timesteps: int = 1000
    alphas_cumprod: Tensor | None = None

    def __post_init__(self) -> None:
        if self.prediction_type not in get_args(PredictionType):
            raise ValueError(f"prediction_type={self.prediction_type} is unknown; one of {get_args(PredictionType)}")
        if (self.alphas_cumprod is None) != (self.prediction_type == "velocity"):
            raise ValueError("alphas_cumprod is the table of epsilon and v_prediction models; velocity has none")

    @classmethod
    def from_scheduler(cls, scheduler: Any) -> "NoiseSchedule":
        """Read the noise process of a diffusers scheduler.

        Raises:
            UserError: if it is neither of the DDPM family with epsilon or v_prediction nor flow matching.
        """
        from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

        config = scheduler.config
        if isinstance(scheduler, FlowMatchEulerDiscreteScheduler) and not config.invert_sigmas:
            return cls("velocity", config.num_train_timesteps)
        table = getattr(scheduler, "alphas_cumprod", None)
        if table is not None and config.prediction_type in ("epsilon", "v_prediction"):
            return cls(config.prediction_type, config.num_train_timesteps, table.double().cpu())
        raise UserError(
            f"the scheduler {type(scheduler).__name__} with prediction_type={config.get('prediction_type')} is not "
            "supported; use a DDPM-family scheduler with epsilon or v_prediction, or FlowMatchEulerDiscreteScheduler"
        )

    # ---- timesteps and levels

    def level(self, timesteps: Tensor) -> Level:
        """Return the noise level at each timestep.

        Args:
            timesteps: any shape. Flow: 0 to num_train_timesteps, fractions welcome. Otherwise integers below it.

        Raises:
            ValueError: if a timestep on the CPU is out of range, or a fraction where the schedule is a table.
        """
        times = timesteps.double()
        if times.device.type == "cpu":  # to look at those on a GPU would be to wait for it; they are drawn on the CPU
            self._check(times)
        if self.alphas_cumprod is None:
            sigma = times / self.num_train_timesteps
            return Level(1 - sigma, sigma)
        alphas_cumprod = self.alphas_cumprod.to(times.device, non_blocking=True)[times.long()]
        return Level(alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt())

    def _check(self, times: Tensor) -> None:
        last = self.num_train_timesteps - (0 if self.alphas_cumprod is None else 1)
        if ((times < 0) | (times > last)).any():
            raise ValueError(f"timesteps span {times.min():g} to {times.max():g}, expected 0 to {last}")
        if self.alphas_cumprod is not None and (times != times.round()).any():
            raise ValueError(
                f"a {self.prediction_type} model knows integer timesteps only; take them from timesteps_at or round"
            )

    def timesteps_at(self, tau: Tensor) -> Tensor:
        """Return the timesteps, float64, whose level has this `tau`: exact for flow, the nearest integer otherwise."""
        tau = tau.double()
        if self.alphas_cumprod is None:
            return tau * self.num_train_timesteps
        table = self.level(torch.arange(self.num_train_timesteps, device=tau.device)).tau
        return (tau[..., None] - table).abs().argmin(-1).double()

    @staticmethod
    def snr(level: Level) -> Tensor:
        """Return the signal-to-noise ratio (alpha / sigma)^2."""
        return (level.alpha / level.sigma) ** 2

    # ---- mixing and unmixing

    def add_noise(self, latents: Tensor, noise: Tensor, level: Level) -> Tensor:
        """Return noisy latents [B, C, h, w]."""
        return weigh(level.alpha, latents) + weigh(level.sigma, noise)

    def target(self, latents: Tensor, noise: Tensor, level: Level) -> Tensor:
        """Return what a perfect network predicts for `add_noise(latents, noise, level)`, [B, C, h, w]."""
        if self.prediction_type == "epsilon":
            return weigh(torch.ones_like(level.alpha), noise)
        if self.prediction_type == "v_prediction":
            return weigh(level.alpha, noise) - weigh(level.sigma, latents)
        return weigh(torch.ones_like(level.alpha), noise) - latents

    def decompose(
        self, noisy_latents: Tensor, prediction: Tensor, level: Level, prediction_level: Level | None = None
    ) -> Decomposition:
        """Return the latents and the noise that `prediction` implies at `level`.

        Args:
            prediction_level: level at which `prediction` is to be read where that is not the level of `noisy_latents`,
                as in inversion. The result mixes to `noisy_latents` at the one and has `prediction` as its target at
                the other.
        """
        latents_x, latents_p, noise_x, noise_p = self._decomposition_coefficients(level, prediction_level)
        return Decomposition(
            latents=weigh(latents_x, noisy_latents) + weigh(latents_p, prediction),
            noise=weigh(noise_x, noisy_latents) + weigh(noise_p, prediction),
        )

    def step(self, noisy_latents: Tensor, prediction: Tensor, level: Level, next_level: Level) -> Tensor:
        """Return next.alpha * latents + next.sigma * noise of the split: DDIM (eta 0), its inversion, flow Euler."""
        keep, move = self.step_coefficients(level, next_level)
        return weigh(keep, noisy_latents) + weigh(move, prediction)

    def step_coefficients(self, level: Level, next_level: Level) -> tuple[Tensor, Tensor]:
        """Return keep and move, float64: `step` is keep * noisy_latents + move * prediction."""
        latents_x, latents_p, noise_x, noise_p = self._decomposition_coefficients(level)
        # Both parts are summed before they meet the images: nothing is divided by a small alpha and multiplied back,
        # and for flow the coefficients come out as 1 and next.sigma - sigma.
        keep = next_level.alpha * latents_x + next_level.sigma * noise_x
        move = next_level.alpha * latents_p + next_level.sigma * noise_p
        return keep, move

    # ---- Direct-Align

    @staticmethod
    def recovery_gain(level: Level, landing: Level) -> Tensor:
        """Return g = rho_s - rho_t, s being `level` and t `landing`: positive when s is noisier (denoising)."""
        return level.rho - landing.rho

    def recovery_coefficient(self, level: Level, landing: Level) -> Tensor:
        """Return c such that the image recovered from one step is latents - c * (prediction - target).

        The step goes from `level` to `landing`, where the noise known to have been added is taken out again:
        xhat = latents_theta + rho_t * (noise_theta - noise).

        Source: Direct-Align (arXiv 2509.06942); c is the gain g for epsilon and g * alpha_s for v and velocity, written
        without a division by alpha_s.
        """
        _, latents_p, _, noise_p = self._decomposition_coefficients(level)
        return -(latents_p + landing.rho * noise_p)

    def _decomposition_coefficients(
        self, level: Level, prediction_level: Level | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return a, b, c, d: latents = a * noisy_latents + b * prediction, noise = c * noisy_latents + d * the same."""
        alpha, sigma, one = level.alpha, level.sigma, torch.ones_like(level.alpha)
        if self.prediction_type == "epsilon":
            return 1 / alpha, -sigma / alpha, torch.zeros_like(alpha), one
        if self.prediction_type == "v_prediction":
            if prediction_level is None:
                return alpha, -sigma, sigma, alpha
            across = alpha * prediction_level.alpha + sigma * prediction_level.sigma  # 1 where the levels are the same
            return prediction_level.alpha / across, -sigma / across, prediction_level.sigma / across, alpha / across
        return one, -sigma, one, alpha


def weigh(coefficient: Tensor, images: Tensor) -> Tensor:
    """Return coefficient ([] or [B]) times images [B, ...]: the one place where a level is broadcast and rounded."""
    dtype = torch.promote_types(images.dtype, torch.float32)
    shape = coefficient.shape + (1,) * (images.ndim - coefficient.ndim)
    # so few numbers are copied to a GPU without waiting for all that it was asked before
    return coefficient.to(images.device, dtype, non_blocking=True).reshape(shape) * images.to(dtype)
