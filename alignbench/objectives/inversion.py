"""Inversion: the noisy latents from which a network would have sampled given images, and the noise it saw on the way.

Preference methods that invert (InPO, SmPO) replace the random noise of diffusion training by what the network itself
takes an image to consist of. With rho = sigma / alpha and noisy_latents = alpha * latents + sigma * noise, a step of
deterministic sampling taken backwards, from level a to a noisier level b, is

    noise_b = (rho_a / rho_b) * noise_a + (1 - rho_a / rho_b) * e

e being the noise that the network sees at that step. So the noise of the end is the average of all e along the path,
weighted by the growth of rho, and it is the state that is carried here: nothing is divided by a small sigma. The e of
the step is wanted at b, which is not known yet. ReNoise asks at an estimate of b and repeats.

Source: Lu et al. 2025, arXiv 2503.18454 (InPO) and 2506.02698 (SmPO), equations 13, 14 and 16; Garibi et al. 2024
(ReNoise). Reference code: JaydenLyh/InPO and JaydenLyh/SmPO, train.py.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alignbench.batch import Conditioning
from alignbench.context import Context
from alignbench.diffusion.schedule import Level, NoiseSchedule
from alignbench.models.adapter import ModelAdapter
from alignbench.objectives.inversion_path import (
    InversionPath,
    InversionSettings,
    InversionStep,
    fresh_noise_std,
    inversion_path,
    paths_through,
)

Ask = Callable[[Tensor, Tensor, Tensor], Tensor]  # noisy latents, timesteps, rows -> prediction

SMALLEST_CHANGE = 1e-3  # of unit latents; below it the rounding of half-precision networks decides
DIVERGENCE = (
    "ReNoise does not contract: an iteration moved some latents as far as the one before. Their noise is not what the "
    "network sees; raise method.inversion.num_steps or lower method.inversion.num_renoise"
)


@dataclass(frozen=True, eq=False)
class Inverted:
    """Inverted latents with the question the network is asked about them.

    Attributes:
        noisy_latents: [B, C, h, w], without a gradient.
        target: what the network would predict there if its path had been straight, in its own prediction space,
            [B, C, h, w].
        timesteps: label given to the network, [B], float64, on the CPU.
        inversion_path: the path; its last level is that of `noisy_latents`.
        contraction: largest ratio of two successive changes by ReNoise, [B]: below 1 its iterations converge, and the
            smaller it is the less a single one leaves to be done. It is the slope of the network along the path times
            the coefficient of the step, measured. NaN without ReNoise.
    """

    noisy_latents: Tensor
    target: Tensor
    timesteps: Tensor
    inversion_path: InversionPath
    contraction: Tensor

    def metrics(self) -> dict[str, Tensor]:
        """Return what every inversion logs, [B] each."""
        device = self.contraction.device
        return {
            "level": self.inversion_path.level[-1].tau.to(device),
            "num_steps": self.inversion_path.num_steps.double().to(device),
            "contraction": self.contraction,
            "diverged": (self.contraction >= 1).float().where(~self.contraction.isnan(), torch.nan),
        }


def invert(
    model: ModelAdapter,
    latents: Tensor,
    conditioning: Conditioning,
    timesteps: Tensor,
    settings: InversionSettings,
    context: Context,
    generators: Sequence[torch.Generator] | None = None,
) -> Inverted:
    """Invert latents up to the level of each timestep.

    Rows may have different timesteps and do not influence each other. Costs, in network passes, the sum over rows of
    steps times (1 + `num_renoise`), twice that with guidance by two calls. A process that has arrived before the others
    makes further calls, with one row, and discards them.

    Args:
        latents: [B, C, h, w]; the state is float32 (float64 for float64 latents).
        conditioning: B rows.
        timesteps: [B], 0..1000, above 0 for flow models.
        generators: one CPU generator a row, for the noise of `eta`.

    Raises:
        ValueError: if `eta` needs generators and none are given.

    Warns:
        RuntimeWarning: if ReNoise moved a row at least as far in one iteration as in the one before.
    """
    timesteps = timesteps.double().cpu()
    path = inversion_path(model.schedule, timesteps, settings, context)
    (inverted,) = _climb_paths(model, latents, conditioning, timesteps[:, None], [path], settings, generators)
    return inverted


def invert_through(
    model: ModelAdapter,
    latents: Tensor,
    conditioning: Conditioning,
    timesteps: Tensor,
    settings: InversionSettings,
    context: Context,
    generators: Sequence[torch.Generator] | None = None,
) -> list[Inverted]:
    """Invert latents once, through the levels of several timesteps, and return how they are at each of them.

    The path stops at these timesteps in place of a grid's: see `InversionSettings.stops_through`. A stop costs what one
    of `invert` does, so that all points together cost no more than the last of them alone.

    Args:
        timesteps: [B, n], ascending in each row.

    Returns:
        n inversions of B rows. See `invert` for other arguments, errors and warnings.
    """
    timesteps = timesteps.double().cpu()
    paths = paths_through(model.schedule, timesteps, settings, context)
    return _climb_paths(model, latents, conditioning, timesteps, paths, settings, generators)


def _climb_paths(
    model: ModelAdapter,
    latents: Tensor,
    conditioning: Conditioning,
    timesteps: Tensor,
    paths: Sequence[InversionPath],
    settings: InversionSettings,
    generators: Sequence[torch.Generator] | None,
) -> list[Inverted]:
    """Climb the last path, and return the state at its end and at the end of each path that it begins with.

    Args:
        timesteps: where the paths end, [B, n].
        paths: n of them.
    """
    if settings.eta > 0 and generators is None:
        raise ValueError("inversion with eta adds noise; give one generator a row")
    schedule, path = model.schedule, paths[-1]
    latents = latents.to(torch.promote_types(latents.dtype, torch.float32))
    # Clean latents taken for noisy ones of the first level contain this much noise; (1 - alpha) / sigma, without the
    # quotient of two small numbers.
    start = path.level[0]
    noise = _mix(schedule, latents, latents, torch.zeros_like(start.sigma), start.sigma / (1 + start.alpha))
    contraction = torch.full((len(latents),), torch.nan, dtype=latents.dtype, device=latents.device)
    noises, contractions = [torch.empty_like(noise) for _ in paths], [contraction.clone() for _ in paths]

    with _asking(model, conditioning, settings) as ask:
        for number in range(len(path)):
            last = number + 1 == len(path)
            num_calls = 1 + (settings.num_renoise if last or settings.renoise_at == "every" else 0)
            step = path.step(number)
            rows = step.rows
            if not len(rows):
                for _ in range(num_calls):
                    _keep_pace(ask, latents)
                continue
            noise[rows], ratio = _climb(schedule, ask, latents[rows], noise[rows], step, num_calls, settings.average)
            contraction[rows] = torch.fmax(contraction[rows], ratio)
            if generators is not None and settings.eta > 0:
                fresh = torch.stack([torch.randn(latents.shape[1:], generator=generators[int(i)]) for i in rows])
                share = settings.eta * fresh_noise_std(schedule, step.level, step.landing) / step.landing.sigma
                noise[rows] = _mix(schedule, noise[rows], fresh.to(noise), torch.ones_like(share), share)
            for one, its_noise, its_contraction in zip(paths, noises, contractions, strict=True):
                # rows set out so that they reach the end of the last path together
                arrived = path.num_steps - one.num_steps == len(path) - 1 - number
                its_noise[arrived], its_contraction[arrived] = noise[arrived], contraction[arrived]

    if (contraction >= 1).any():
        warnings.warn(DIVERGENCE, RuntimeWarning, stacklevel=3)
    columns = timesteps.unbind(1)
    return [
        _inverted(schedule, latents, *of_path) for of_path in zip(noises, columns, paths, contractions, strict=True)
    ]


def _climb(
    schedule: NoiseSchedule,
    ask: Ask,
    latents: Tensor,
    noise: Tensor,
    step: InversionStep,
    num_calls: int,
    average: bool,
) -> tuple[Tensor, Tensor]:
    """Take one step; return the noise where it lands, and the contraction, NaN where one call was made."""
    kept = step.level.rho / step.landing.rho
    here = point = schedule.add_noise(latents, noise, step.level)
    seen, climbed, change = noise, noise, None
    contraction = torch.full((len(latents),), torch.nan, dtype=latents.dtype, device=latents.device)
    for number in range(num_calls):
        prediction = ask(point, step.labels, step.rows)
        estimate = schedule.decompose(here, prediction, step.level, step.network_level).noise
        seen = torch.lerp(seen, estimate, 1 / (number + 1) if average else 1.0)
        climbed = _mix(schedule, noise, seen, kept, 1 - kept)
        arrived = schedule.add_noise(latents, climbed, step.landing)
        before, change = change, _size(arrived - point)
        if before is not None:
            ratio = (change / before.clamp(min=SMALLEST_CHANGE)).nan_to_num(nan=torch.inf)
            contraction = torch.fmax(contraction, ratio)
        point = arrived
    return climbed, contraction


def _inverted(
    schedule: NoiseSchedule, latents: Tensor, noise: Tensor, timesteps: Tensor, path: InversionPath, contraction: Tensor
) -> Inverted:
    end, label = path.level[-1], schedule.level(timesteps)
    # The noise that takes the latents of the label's level to where the path ended. In `exact` the levels are one and
    # this is `noise`; the reference code pairs latents of one level with the coefficients of another.
    noise_of_label = _mix(schedule, latents, noise, (end.alpha - label.alpha) / label.sigma, end.sigma / label.sigma)
    return Inverted(
        noisy_latents=schedule.add_noise(latents, noise, end),
        target=schedule.target(latents, noise_of_label, label),
        timesteps=timesteps,
        inversion_path=path,
        contraction=contraction,
    )


def round_trip_error(
    model: ModelAdapter, latents: Tensor, conditioning: Conditioning, inverted: Inverted, settings: InversionSettings
) -> Tensor:
    """Sample back down the path and return how far from the latents that ends, relative to their size, [B].

    Costs one call of the network a step, with the network, prompt and guidance that inverted. Meaningless with `eta`.
    """
    schedule, path = model.schedule, inverted.inversion_path
    state = inverted.noisy_latents.clone()
    with _asking(model, conditioning, settings) as ask:
        for number in reversed(range(len(path))):
            step = path.step(number)
            if not len(step.rows):
                _keep_pace(ask, latents)
                continue
            here = state[step.rows]
            prediction = ask(here, step.stops, step.rows)
            state[step.rows] = schedule.step(here, prediction, step.landing, step.level)
    return _size(state - latents) / _size(latents)


@contextmanager
def _asking(model: ModelAdapter, conditioning: Conditioning, settings: InversionSettings) -> Iterator[Ask]:
    """Give the network that inverts, as a function of noisy latents, timesteps and their rows in the batch."""
    scale = settings.guidance_scale
    alone = scale is None or scale == 1 or model.guidance_is_distilled
    empty = None if alone else model.without_prompts(conditioning)

    def ask(noisy_latents: Tensor, timesteps: Tensor, rows: Tensor) -> Tensor:
        full = conditioning.map(lambda value: value[rows])
        if scale is None or empty is None:
            return model.predict(noisy_latents, timesteps, full, scale if model.guidance_is_distilled else None)
        without = empty.map(lambda value: value[rows])
        if scale == 0:
            return model.predict(noisy_latents, timesteps, without)
        # below 1, too, where sampling would not be guided: these are the weights that SmPO compares
        return model.predict_guided(noisy_latents, timesteps, full, without, scale)

    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if settings.inverter == "reference":
            stack.enter_context(model.reference())
        if settings.eval_mode:
            stack.enter_context(_evaluating(model.policy))
        yield ask
    # Autocast keeps half-precision copies of weights; those made without a gradient must not meet the loss: older
    # versions of PyTorch would use them there and cut the policy off from its gradient.
    torch.clear_autocast_cache()


def _keep_pace(ask: Ask, latents: Tensor) -> None:
    """Call the network for nothing, while other processes have longer paths to go."""
    ask(latents[:1], torch.zeros(1), torch.zeros(1, dtype=torch.int64))


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network in evaluation mode, and each of its modules back in the mode it had."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _mix(schedule: NoiseSchedule, first: Tensor, second: Tensor, weight: Tensor, other: Tensor) -> Tensor:
    """Return weight * first + other * second, weights [B] in float64: the broadcast of `add_noise`."""
    return schedule.add_noise(first, second, Level(weight, other))


def _size(images: Tensor) -> Tensor:
    """Return the root mean square of each image, [B]."""
    return images.flatten(1).square().mean(1).sqrt()
