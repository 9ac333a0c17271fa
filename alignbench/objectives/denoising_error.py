"""How well a network explains an image: denoising errors of policy and reference on the very same draws.

The mathematics that preference losses share. A log-likelihood ratio of policy and reference is, up to a constant, the
difference of their denoising errors, so every such method starts from these few numbers a sample.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from alignbench.batch import Conditioning, ImageBatch, PairBatch
from alignbench.context import Context
from alignbench.diffusion.schedule import Level, NoiseSchedule
from alignbench.models.adapter import ModelAdapter

ErrorWeighting = Literal["uniform", "eps_equivalent", "x0_equivalent", "min_snr"]
DRAWS_PER_TIMESTEP = 64  # the more, the more even is what `draw_spread_timesteps` returns
Answering = Callable[[], AbstractContextManager[None]]  # lets a model answer for other weights than the policy's


@dataclass(frozen=True)
class Noised:
    """Noisy latents with the question the network is asked about them.

    Attributes:
        noisy_latents, target: [B, C, h, w].
        timesteps: label given to the network, [B], float64.
        weight: factor on the error, [B], float32.
    """

    noisy_latents: Tensor
    target: Tensor
    timesteps: Tensor
    weight: Tensor

    def error(self, prediction: Tensor) -> Tensor:
        """Return the weighted error of a prediction, [B], float32."""
        return self.weight * sample_error(prediction, self.target)

    @staticmethod
    def cat(parts: "Sequence[Noised]") -> "Noised":
        """Join along the batch axis."""
        names = ("noisy_latents", "target", "timesteps", "weight")
        return Noised(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


@dataclass(frozen=True)
class PairErrors:
    """Errors of policy and reference on pairs, each [B], float32."""

    error_w: Tensor
    error_l: Tensor
    ref_error_w: Tensor
    ref_error_l: Tensor

    def margin(self, beta: float) -> Tensor:
        """Return the winner's implicit reward minus the loser's, [B]: the logit of preferring the winner."""
        reward_w = implicit_reward(self.error_w, self.ref_error_w, beta)
        return reward_w - implicit_reward(self.error_l, self.ref_error_l, beta)

    @torch.no_grad()
    def metrics(self, beta: float) -> dict[str, Tensor]:
        """Return what every method on pairs logs, [B] each."""
        margin = self.margin(beta)
        return {
            "accuracy": (margin > 0).float() + 0.5 * (margin == 0).float(),
            "margin": margin,
            "implicit_reward_w": implicit_reward(self.error_w, self.ref_error_w, beta),
            "implicit_reward_l": implicit_reward(self.error_l, self.ref_error_l, beta),
            # negative where the policy explains the image better than the reference does
            "error_change_w": self.error_w - self.ref_error_w,
            "error_change_l": self.error_l - self.ref_error_l,
            "ref_error_w": self.ref_error_w,
            "ref_error_l": self.ref_error_l,
        }


# ---- pure mathematics


def sample_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the squared error of each sample, mean over channels and pixels, [B], squared and summed in float32."""
    dtype = torch.promote_types(torch.promote_types(prediction.dtype, target.dtype), torch.float32)
    return (prediction.to(dtype) - target.to(dtype)).square().flatten(1).mean(1)


def error_weight(
    weighting: ErrorWeighting, schedule: NoiseSchedule, level: Level, snr_gamma: float | None = None
) -> Tensor:
    """Return the factor on the error of a raw prediction at `level`, float64.

    With one network in three guises, noise' - noise = alpha (v' - v) and latents' - latents = -sigma (v' - v), v being
    the v-prediction or the velocity; for epsilon the latter is -(sigma / alpha) (noise' - noise).

    Args:
        weighting: `uniform` is 1; `eps_equivalent` and `x0_equivalent` make the error that of the noise or the latents
            the prediction implies; `min_snr` is min(SNR, snr_gamma) times the error of the latents.
        snr_gamma: needed by `min_snr` alone; its paper uses 5.

    Raises:
        ValueError: if the weighting is unknown, or lacks its gamma.

    Source: min_snr: Hang et al. 2023, equal to min(SNR, gamma) / SNR for epsilon and min(SNR, gamma) / (SNR + 1) for v.
    """
    epsilon = schedule.prediction_type == "epsilon"
    if weighting == "uniform":
        return torch.ones_like(level.alpha)
    if weighting == "eps_equivalent":
        return torch.ones_like(level.alpha) if epsilon else level.alpha**2
    to_latents = level.rho**2 if epsilon else level.sigma**2
    if weighting == "x0_equivalent":
        return to_latents
    if weighting == "min_snr":
        if snr_gamma is None:
            raise ValueError("error_weighting=min_snr needs snr_gamma; its paper uses 5")
        return schedule.snr(level).clamp(max=snr_gamma) * to_latents
    raise ValueError(f"error_weighting={weighting} is unknown; available: {', '.join(get_args(ErrorWeighting))}")


def check_weighting(weighting: str, available: Sequence[str]) -> None:
    """Refuse an `error_weighting` that a method cannot use.

    Raises:
        ValueError: naming those it can.
    """
    if weighting not in available:
        raise ValueError(f"method.error_weighting={weighting} is unknown; available: {', '.join(available)}")


def implicit_reward(error: Tensor, ref_error: Tensor, beta: float) -> Tensor:
    """Return the reward that policy and reference together imply: -(beta / 2) (error - ref_error)."""
    return -(beta / 2) * (error - ref_error)


# ---- draws: keyed by the sample's global index, so the same on any layout of processes and micro-batches


def draw_timesteps(
    model: ModelAdapter, index: Tensor, latents: Tensor, context: Context, purpose: str = "timesteps"
) -> Tensor:
    """Return a training timestep of the model's family for each sample, [B], float64 on the CPU.

    Args:
        latents: that will be noised, [B, C, h, w]; families may shift timesteps by their size.
    """
    size = latents.shape[-2:]
    draws = [model.sample_timesteps(1, context.sample_generator(int(i), purpose), size) for i in index]
    return torch.cat(draws).double()


def draw_spread_timesteps(model: ModelAdapter, index: Tensor, latents: Tensor, num: int, context: Context) -> Tensor:
    """Return `num` timesteps for each sample that are spread over the range, [B, num], float64 on the CPU, ascending.

    A systematic sample of independent draws: these are sorted, and one of every `DRAWS_PER_TIMESTEP` is taken, the
    first at random. Each timestep, taken at random among the `num`, has the distribution of the model's family.

    Args:
        latents: see `draw_timesteps`.

    Source: systematic sampling; of timesteps as in Kingma et al. 2021 (Variational Diffusion Models).
    """
    rows = []
    for i in index:
        generator = context.sample_generator(int(i), "timesteps")
        drawn = model.sample_timesteps(num * DRAWS_PER_TIMESTEP, generator, latents.shape[-2:]).double()
        first = int(torch.randint(DRAWS_PER_TIMESTEP, (), generator=generator))
        rows.append(drawn.sort().values[first::DRAWS_PER_TIMESTEP])
    return torch.stack(rows)


def add_noise(
    model: ModelAdapter,
    latents: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    weighting: ErrorWeighting,
    snr_gamma: float | None = None,
) -> Noised:
    """Mix latents and noise at the level of each timestep, with the network's target and the weight of its error."""
    level = model.schedule.level(timesteps)
    weight = error_weight(weighting, model.schedule, level, snr_gamma)
    noise = noise.to(latents.device)
    return Noised(
        noisy_latents=model.schedule.add_noise(latents, noise, level),
        target=model.schedule.target(latents, noise, level),
        # a copy of so few numbers to a GPU waits for nothing: CUDA takes them from common memory before it returns
        timesteps=timesteps.to(latents.device, non_blocking=True),
        weight=weight.to(latents.device, torch.float32, non_blocking=True),
    )


def noise_images(
    model: ModelAdapter,
    batch: ImageBatch,
    context: Context,
    weighting: ErrorWeighting,
    snr_gamma: float | None = None,
    draw: str = "",
) -> Noised:
    """Noise each image with a noise and a timestep of its own.

    Args:
        draw: tells apart the draws of several images of one sample.
    """
    noise = context.noise(batch.index, batch.latents.shape[1:], f"noise{draw}")
    timesteps = draw_timesteps(model, batch.index, batch.latents, context, f"timesteps{draw}")
    return add_noise(model, batch.latents, noise, timesteps, weighting, snr_gamma)


def noise_pairs(model: ModelAdapter, batch: PairBatch, context: Context, weighting: ErrorWeighting) -> Noised:
    """Noise winners and losers with one noise and timestep a pair; rows are all winners, then all losers."""
    noise = context.noise(batch.index, batch.latents_w.shape[1:])
    timesteps = draw_timesteps(model, batch.index, batch.latents_w, context)
    return Noised.cat([add_noise(model, x, noise, timesteps, weighting) for x in (batch.latents_w, batch.latents_l)])


# ---- errors of a model


def prediction_error(model: ModelAdapter, noised: Noised, conditioning: Conditioning) -> Tensor:
    """Return the weighted error of the policy (of the reference inside `model.reference()`), [B], float32."""
    return noised.error(model.predict(noised.noisy_latents, noised.timesteps, conditioning))


def predict_both(
    model: ModelAdapter, noised: Noised, conditioning: Conditioning, reference: Answering | None = None
) -> tuple[Tensor, Tensor]:
    """Return what policy and reference predict, [B, C, h, w] each, float32; the reference's has no gradient.

    Losses that compare the two call this, not `model.reference()`: it asks the reference first, because switching
    adapters off and on, or weights, must not meet a graph under construction.

    Args:
        reference: lets the model answer for the reference: `model.reference` by default, or `model.old_policy`.
    """
    with torch.no_grad(), (reference or model.reference)():
        expected = model.predict(noised.noisy_latents, noised.timesteps, conditioning)
    return model.predict(noised.noisy_latents, noised.timesteps, conditioning), expected


def both_errors(
    model: ModelAdapter,
    noised: Noised,
    conditioning: Conditioning,
    reference: Answering | None = None,
    known: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the weighted errors of policy and reference, [B] each, float32; see `predict_both`.

    Args:
        known: the reference's errors without their weights, [B], as `reference_error` returned them; None asks it.
    """
    if known is not None:
        return prediction_error(model, noised, conditioning), noised.weight * known
    prediction, expected = predict_both(model, noised, conditioning, reference)
    return noised.error(prediction), noised.error(expected)


def pair_errors(
    model: ModelAdapter,
    noised: Noised,
    conditioning: Conditioning,
    reference: Answering | None = None,
    known: Mapping[str, Tensor] | None = None,
) -> PairErrors:
    """Return the errors of noised pairs by one call of each network; rows are all winners, then all losers.

    Args:
        noised: 2 B rows.
        conditioning: 2 B rows, as `PairBatch.conditioning_both`.
        reference: see `predict_both`.
        known: what `pair_reference_errors` returned, which then is not asked for; None asks the reference.
    """
    ref_error = None if known is None else known_of_both(known, "ref_error")
    error, ref_error = both_errors(model, noised, conditioning, reference, ref_error)
    return PairErrors(*error.chunk(2), *ref_error.chunk(2))


# ---- errors of the reference at fixed draws, which are computed once


REFERENCE_ERRORS = "reference errors"  # what methods keep that keep nothing else, in their `reference_settings`


@torch.no_grad()
def reference_error(model: ModelAdapter, noised: Noised, conditioning: Conditioning) -> Tensor:
    """Return the reference's error without its weight, [B], float32, so that it serves every `error_weighting`."""
    with model.reference():
        return sample_error(model.predict(noised.noisy_latents, noised.timesteps, conditioning), noised.target)


def pair_reference_errors(model: ModelAdapter, noised: Noised, conditioning: Conditioning) -> dict[str, Tensor]:
    """Return `ref_error_w` and `ref_error_l`, [B] each, of noised pairs; rows are all winners, then all losers."""
    return dict(zip(("ref_error_w", "ref_error_l"), reference_error(model, noised, conditioning).chunk(2), strict=True))


def known_of_both(known: Mapping[str, Tensor], name: str) -> Tensor:
    """Return what is known of all winners, then of all losers, [2 B, ...]."""
    return torch.cat([known[f"{name}_w"], known[f"{name}_l"]])
