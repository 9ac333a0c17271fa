"""Averages of trained weights: of what adapters add to their layers, or of whole networks."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from alignbench.models.weights.low_rank import Adapters


def average_adapters(parents: Sequence[Adapters], shares: Sequence[float]) -> dict[str, Tensor]:
    """Return adapters that add the average of what the parents' adapters add: the sum of share * alpha / r * B A.

    The factors of all parents are joined along the rank, so the average is exact and has the sum of their ranks. The
    product of averaged factors would be another matrix: it also has the products of one parent's B and another's A.

    Args:
        parents: as `adapters_of` returns them; a layer without an adapter counts as unchanged.
        shares: how much each parent counts.

    Returns:
        `<module>.lora_A.weight` [r, ...] and `.lora_B.weight` [m, r, ...], to be added with alpha = rank.
    """
    state: dict[str, Tensor] = {}
    for name in dict.fromkeys(name for parent in parents for name in parent):
        having = [(*parent[name], share) for parent, share in zip(parents, shares, strict=True) if name in parent]
        state[f"{name}.lora_A.weight"] = torch.cat([down for down, *_ in having])
        ups = [up * (share * alpha / len(down)) for down, up, alpha, share in having]
        state[f"{name}.lora_B.weight"] = torch.cat(ups, dim=1)
    return state


def average_weights(parents: Sequence[Mapping[str, Tensor]], shares: Sequence[float]) -> dict[str, Tensor]:
    """Return the sum of share * weights, computed in float64, in the dtype of the parents.

    Args:
        parents: state dicts with the same names and shapes.
        shares: how much each parent counts; weights that are equal in all parents stay as they are if shares sum to 1.
    """
    return {
        name: sum(
            (share * parent[name].double() for parent, share in zip(parents, shares, strict=True)),
            torch.zeros_like(first, dtype=torch.float64),
        ).to(first.dtype)
        for name, first in parents[0].items()
    }
