"""Pairs at inverted latents: what losses on them need of an inversion, and how batches carry it."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from alignbench.batch import PairBatch
from alignbench.context import Context
from alignbench.models.adapter import ModelAdapter
from alignbench.objectives.denoising_error import (
    ErrorWeighting,
    Noised,
    draw_spread_timesteps,
    draw_timesteps,
    error_weight,
    known_of_both,
)
from alignbench.objectives.inversion import Inverted, invert, invert_through
from alignbench.objectives.inversion_path import InversionSettings


def invert_pairs(model: ModelAdapter, batch: PairBatch, settings: InversionSettings, context: Context) -> Inverted:
    """Invert both images of each pair up to one timestep; rows are all winners, then all losers."""
    timesteps = draw_timesteps(model, batch.index, batch.latents_w, context).repeat(2)  # one a pair
    latents, generators = torch.cat([batch.latents_w, batch.latents_l]), _generators(batch, context)
    return invert(model, latents, batch.conditioning_both, timesteps, settings, context, generators)


def pairs_at_points(
    model: ModelAdapter, batch: PairBatch, num: int, settings: InversionSettings, context: Context
) -> list[PairBatch]:
    """Invert each pair once and return the batch at `num` points of its way, with what is `known` of them.

    The order of points is drawn for each pair, so that the pairs of a batch are at points of the whole range.
    """
    timesteps = draw_spread_timesteps(model, batch.index, batch.latents_w, num, context).repeat(2, 1)
    latents, generators = torch.cat([batch.latents_w, batch.latents_l]), _generators(batch, context)
    visited = invert_through(model, latents, batch.conditioning_both, timesteps, settings, context, generators)
    known = [known_inversion(inverted) for inverted in visited]
    at_points = {name: torch.stack([one[name] for one in known]) for name in known[0]}
    order, rows = draw_order(batch.index, num, context), torch.arange(len(batch))
    return [
        replace(batch, known={name: value[points, rows] for name, value in at_points.items()})
        for points in order.unbind(1)
    ]


def draw_order(index: Tensor, num: int, context: Context) -> Tensor:
    """Return in which order each pair is trained at its `num` points, [B, num], int64."""
    draws = [context.sample_generator(int(i), "order_of_points") for i in index]
    return torch.stack([torch.randperm(num, generator=draw) for draw in draws])


def known_inversion(inverted: Inverted) -> dict[str, Tensor]:
    """Return what a loss needs of an inversion of pairs, by name as in `PairBatch.known`, [B, ...] each."""
    values = {"noisy_latents": inverted.noisy_latents, "target": inverted.target, **inverted.metrics()}
    known = {"timesteps": inverted.timesteps.chunk(2)[0]}
    for name, value in values.items():
        known[f"{name}_w"], known[f"{name}_l"] = value.chunk(2)
    return known


def noised_by_inversion(model: ModelAdapter, known: Mapping[str, Tensor], weighting: ErrorWeighting) -> Noised:
    """Return inverted latents with the question the network is asked; rows are all winners, then all losers.

    Args:
        known: what `known_inversion` returned.
    """
    noisy_latents, timesteps = known_of_both(known, "noisy_latents"), known["timesteps"].repeat(2).cpu()
    weight = error_weight(weighting, model.schedule, model.schedule.level(timesteps))
    device = noisy_latents.device
    return Noised(noisy_latents, known_of_both(known, "target"), timesteps.to(device), weight.to(device, torch.float32))


def _generators(batch: PairBatch, context: Context) -> list[torch.Generator]:
    """Return the generators of the noise of `eta`, of all winners, then of all losers."""
    return [context.sample_generator(int(i), f"inversion_{image}") for image in ("w", "l") for i in batch.index]
