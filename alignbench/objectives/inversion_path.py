"""Which noise levels an inversion climbs through, and what the network is told on the way. No network here.

Source: the grids of JaydenLyh/SmPO and JaydenLyh/InPO, train.py, with DDIMInverseScheduler of diffusers 0.20 and 0.22.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from alignbench.context import Context
from alignbench.diffusion.schedule import CLEAN, Level, NoiseSchedule

Mode = Literal["exact", "upstream_020", "upstream_022"]
RenoiseAt = Literal["every", "last"]
Network = Literal["policy", "reference"]

FIRST_STOP = 1  # steps_offset of Stable Diffusion: grids are 1, 1 + stride, 1 + 2 stride, ...


@dataclass(frozen=True)
class InversionSettings:
    """How latents are inverted.

    Attributes:
        mode: `exact` climbs from clean latents over the grid up to the very level of the timestep, and asks the network
            with the timestep it climbs to. `upstream_020` is what the reference code does with the diffusers version it
            pins: it takes clean latents for those of timestep 0, asks with the timestep it climbs from (in the first
            step a negative one), and ends at the grid level above the timestep, though everything after is told the
            timestep. `upstream_022` is the same code with later versions: asked with the timestep it climbs to, ending
            below.
        num_steps: steps of the grid over the whole range; fewer are needed for smaller timesteps.
        num_renoise: ReNoise iterations of a step; 0 is plain DDIM (or Euler) inversion.
        renoise_at: at `every` step (code), or at the `last` one only (the text of SmPO).
        average: whether a step takes the mean of what all its iterations saw, or the last alone.
        eta: share of fresh noise that is added at each step.
        guidance_scale: None for the conditional call alone, with the model's own guidance where that is distilled. For
            other families it is the weight of classifier-free guidance as `ModelAdapter.guide` takes it: 1 is the
            conditional call alone, 0 the call with the empty prompt alone, and any other number costs both.
        inverter: the network that inverts: the `policy` being trained, or its `reference`.
        eval_mode: whether that network is in evaluation mode meanwhile, whatever it is for training.
    """

    mode: Mode
    num_steps: int
    num_renoise: int
    renoise_at: RenoiseAt
    average: bool
    eta: float
    guidance_scale: float | None
    inverter: Network
    eval_mode: bool

    def __post_init__(self) -> None:
        for key, value, available in (
            ("mode", self.mode, get_args(Mode)),
            ("renoise_at", self.renoise_at, get_args(RenoiseAt)),
            ("inverter", self.inverter, get_args(Network)),
        ):
            if value not in available:
                raise ValueError(f"method.inversion.{key}={value} is unknown; available: {', '.join(available)}")
        for key, value, least in (
            ("num_steps", self.num_steps, 1),
            ("num_renoise", self.num_renoise, 0),
            ("eta", self.eta, 0),
        ):
            if value < least:
                raise ValueError(f"method.inversion.{key}={value} must be at least {least}")

    def stride(self, num_train_timesteps: int) -> int:
        """Return how many timesteps lie between two stops of the grid."""
        return num_train_timesteps // self.num_steps

    def stops(self, timestep: float, num_train_timesteps: int = 1000) -> list[float]:
        """Return the timesteps that the inversion of an image up to `timestep` climbs to, the last being its end."""
        stride = self.stride(num_train_timesteps)
        grid = [float(FIRST_STOP + number * stride) for number in range(self.num_steps)]
        if self.mode == "exact":
            return [*(stop for stop in grid[1:] if stop < timestep), float(timestep)]
        lag = stride if self.mode == "upstream_020" else 0  # there a step is taken if it starts below the timestep
        return [stop for stop in grid if stop - lag < timestep]

    def stops_through(self, timesteps: Sequence[float], num_train_timesteps: int = 1000) -> list[list[float]]:
        """Return for each of some ascending timesteps what an inversion climbs to that passes through all of them.

        In place of the grid's stops it takes the timesteps themselves. Distances that are longer than a step of the
        grid are divided evenly into steps of about its length. Each list begins with the one before it.
        """
        stride = self.stride(num_train_timesteps)
        stops: list[float] = []
        through = []
        for timestep in timesteps:
            before = stops[-1] if stops else 0.0
            num_steps = max(1, round((timestep - before) / stride))
            between = (before + (timestep - before) * number / num_steps for number in range(1, num_steps))
            stops = [*stops, *map(float, map(round, between)), float(timestep)]
            through.append(stops)
        return through


@dataclass(frozen=True, eq=False)
class InversionStep:
    """One step of those rows that take it, R of the batch's B.

    Attributes:
        rows: which they are, [R], int64.
        stops: timestep that they climb to, [R], float64.
        labels: timestep given to the network, [R], float64.
        network_level: level of that label, [R]; the network's prediction is read at this level.
        level, landing: level of the latents before and after the step, [R].
    """

    rows: Tensor
    stops: Tensor
    labels: Tensor
    network_level: Level
    level: Level
    landing: Level


@dataclass(frozen=True, eq=False)
class InversionPath:
    """The steps of a batch. All rows arrive together; those with fewer steps set out later.

    Attributes:
        stops, labels: see `InversionStep`; [K, B], 0 before a row sets out.
        network_level: see `InversionStep`; [K, B].
        level: level before each step and after the last, [K + 1, B].
        num_steps: steps of each row, [B], at most K.
    """

    stops: Tensor
    labels: Tensor
    network_level: Level
    level: Level
    num_steps: Tensor

    def __len__(self) -> int:
        return len(self.stops)

    def step(self, number: int) -> InversionStep:
        """Return step `number`; it has no rows where all set out later."""
        rows = (self.num_steps >= len(self) - number).nonzero().flatten()
        return InversionStep(
            rows,
            self.stops[number][rows],
            self.labels[number][rows],
            self.network_level[number][rows],
            self.level[number][rows],
            self.level[number + 1][rows],
        )


def inversion_path(
    schedule: NoiseSchedule, timesteps: Tensor, settings: InversionSettings, context: Context
) -> InversionPath:
    """Plan the inversion of a batch, with as many steps as the longest path of any process has.

    Under sharding every call of the network is an exchange between processes, so all of them must make equally many.
    """
    return _aligned(
        schedule, [settings.stops(float(t), schedule.num_train_timesteps) for t in timesteps], settings, context
    )


def paths_through(
    schedule: NoiseSchedule, timesteps: Tensor, settings: InversionSettings, context: Context
) -> list[InversionPath]:
    """Plan the inversion of a batch through several timesteps of each row, and return its beginning up to each of them.

    Args:
        timesteps: [B, n], ascending in each row.

    Returns:
        n paths; the last one is whole.
    """
    rows = [settings.stops_through(row, schedule.num_train_timesteps) for row in timesteps.tolist()]
    return [_aligned(schedule, stops, settings, context) for stops in zip(*rows, strict=True)]


def _aligned(
    schedule: NoiseSchedule, paths: Sequence[list[float]], settings: InversionSettings, context: Context
) -> InversionPath:
    """Put the stops of all rows into one table in which they arrive together."""
    num_steps = torch.tensor([len(path) for path in paths])
    length = context.maximum(int(num_steps.max()), num_steps.device)
    stops = torch.zeros(length + 1, len(paths), dtype=torch.float64)
    for row, path in enumerate(paths):
        stops[length + 1 - len(path) :, row] = torch.tensor(path, dtype=torch.float64)
    level = schedule.level(stops)
    if settings.mode == "exact":
        under_way = torch.arange(length + 1)[:, None] > length - num_steps
        level = Level(level.alpha.where(under_way, CLEAN.alpha), level.sigma.where(under_way, CLEAN.sigma))
    lag = settings.stride(schedule.num_train_timesteps) if settings.mode == "upstream_020" else 0
    labels = stops[1:] - lag
    # the first label of upstream_020 is negative; its latents are cleanest
    network_level = schedule.level(labels.clamp(min=0))
    return InversionPath(stops[1:], labels, network_level, level, num_steps)


def fresh_noise_std(schedule: NoiseSchedule, level: Level, landing: Level) -> Tensor:
    """Return the standard deviation of the noise that `eta` = 1 adds when climbing to `landing`, float64.

    The variance of DDPM's step between the two levels; for flow sigma_b^2 - sigma_a^2, an experiment of ours. The rest
    of the step is not shortened to compensate, so the latents become slightly too noisy.

    Source: train.py of JaydenLyh/InPO, with eta 0.1.
    """
    if schedule.prediction_type == "velocity":
        return (landing.sigma**2 - level.sigma**2).sqrt()
    return level.sigma / landing.sigma * (1 - (landing.alpha / level.alpha) ** 2).sqrt()
