"""Direct-Align: rebuild an image from a noisy one whose noise is known, but for a thin slice left to the network.

Paper: Shen et al. 2025, arXiv 2509.06942. With the network's prediction exact the image comes back exactly, at any
noise level, and the error of the prediction enters with a known coefficient.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from alignbench.diffusion.flow_matching import shift_time
from alignbench.diffusion.schedule import Level, NoiseSchedule, weigh
from alignbench.settings.section import Count, Positive, Share

GainPolicy = Literal["landing", "paper", "constant"]


def output_coefficient(
    schedule: NoiseSchedule, start: Level, landing: Level, policy: GainPolicy, constant: float
) -> Tensor:
    """Return c of the recovered image latents - c * (prediction - target), [B]: > 0 denoising, < 0 inverting.

    Args:
        policy: `landing` divides by alpha where the step lands (the released code), `paper` by alpha where it starts,
            `constant` makes the gain, c of an epsilon model, plus or minus `constant` at every level.

    Source: arXiv 2509.06942, recovery equations; the output form for each prediction type is derived here.
    """
    if policy == "landing":
        return schedule.recovery_coefficient(start, landing)
    if policy == "paper":
        gain = (start.sigma - landing.sigma) / start.alpha
    else:
        gain = constant * torch.sign(schedule.recovery_gain(start, landing))
    return gain if schedule.prediction_type == "epsilon" else gain * start.alpha


def recover(latents: Tensor, prediction: Tensor, target: Tensor, coefficient: Tensor) -> Tensor:
    """Return the image rebuilt from a noisy one whose noise is known; equals `latents` where the network is perfect."""
    return latents - weigh(coefficient, prediction - target)


@dataclass(frozen=True)
class Draw:
    """Positions of one recovery a sample, each [B], int64: where it lands, and how long its step is."""

    landing: Tensor
    length: Tensor


class RecoveryWindow:
    """A window of noise levels, cut into equal parts, and the steps taken in it.

    Levels are numbered by `position`: 0 at the clean end, `num_levels` at the noisy end (the reference code counts its
    levels the other way and its discounts this way). The step of a draw is shorter near the ends, so that a start on
    either side of the landing level stays inside.

    Args:
        ends: noisy and clean end, as `unit` says: `tau`, the time of the flow model of the same noise-to-signal ratio,
            or `entries` of a sampling schedule: sigmas linear from 1 to 0, then shifted.
        num_inference_steps, shift: the schedule that entries refer to.
        num_levels: parts the window is cut into.
        known_ratio: share of the window that a step leaves to the known noise: the longest step is floor((1 -
            known_ratio) * num_levels) + 1 parts, with the rounding of the reference code.
        edge: landing levels closer than this to an end are not drawn.

    Raises:
        ValueError: if the window is empty, reversed, or has no level between its edges.
    """

    def __init__(
        self,
        ends: Sequence[float],
        unit: Literal["tau", "entries"],
        num_inference_steps: Count,
        shift: Positive,
        num_levels: Count,
        known_ratio: Share,
        edge: int,
    ) -> None:
        if unit not in ("tau", "entries"):
            raise ValueError(f"method.window.unit={unit} is unknown; available: tau, entries")
        noisy, clean = ends if unit == "tau" else (shift_time(1 - entry / num_inference_steps, shift) for entry in ends)
        if not 0 <= clean < noisy < 1:
            raise ValueError(
                f"method.window.ends={list(ends)} are tau {noisy:g} and {clean:g}; expected 1 > noisy > clean >= 0"
            )
        if not 0 < edge <= num_levels / 2:
            raise ValueError(f"method.window.edge={edge} must lie between 1 and half of num_levels={num_levels}")
        self.tau_noisy, self.tau_clean = float(noisy), float(clean)
        self.num_levels = num_levels
        self.longest = math.floor((1 - known_ratio) * num_levels) + 1
        self.edge = edge

    def draw(self, uniform: Tensor) -> Draw:
        """Return a landing position between the edges, and a step, for each number in 0..1, [B]."""
        landing = self.edge + (uniform * (self.num_levels - 2 * self.edge + 1)).floor().long()
        return Draw(landing, torch.minimum(landing, self.num_levels - landing).clamp(max=self.longest))

    def tau(self, position: Tensor) -> Tensor:
        """Return the noise level at positions, float64."""
        return self.tau_clean + (self.tau_noisy - self.tau_clean) * position.double() / self.num_levels

    def discount(self, position: Tensor, ends: Sequence[float], shift: float) -> Tensor:
        """Return discounts, float64: `ends[0]` at the clean end, `ends[1]` at the noisy end, linear if `shift` is 1."""
        clean, noisy = ends
        return clean + (noisy - clean) * shift_time(position.double() / self.num_levels, shift)
