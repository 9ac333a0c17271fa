"""What an adapter adds to the weight of one layer: LoRA, and LoKr and LoHa of LyCORIS, which need no low rank."""

from collections.abc import Mapping

import torch
from torch import Tensor

FACTORS = ("lokr_w1", "lokr_w2", "hada_w1", "hada_w2")  # each whole, or as the product of `_a` and `_b`
CORES = {"lokr_w2": "lokr_t2", "hada_w1": "hada_t1", "hada_w2": "hada_t2"}  # between `_a` and `_b` of a convolution
CHANGE_PARTS = (*FACTORS, *(f"{factor}_{side}" for factor in FACTORS for side in "ab"), *CORES.values())


def weight_change(parts: Mapping[str, Tensor]) -> Tensor:
    """Return what the matrices of an adapter add to the weight of its layer, [m, n], float32.

    Rows are the outputs of the layer and columns are its inputs, as in the flattened weight of a convolution. With
    rank r, the changes are

        LoRA  alpha / r  up down
        LoKr  alpha / r  w1 (x) w2, the Kronecker product; without alpha / r if both factors are whole
        LoHa  alpha / r  w1 * w2, the product of their elements

    where a factor w is whole or a product w_a w_b of rank r. Without an alpha it is r.

    Args:
        parts: the matrices by their names in files of LyCORIS, `down` and `up` for a LoRA, and perhaps `alpha`.

    Raises:
        ValueError: a matrix is missing, or belongs to no other, or their sizes do not fit each other.

    Source: Yeh et al. 2023 (LyCORIS), section 3; modules/lokr.py and modules/loha.py of KohakuBlueleaf/LyCORIS.
    """
    rest = {name: tensor.float() for name, tensor in parts.items()}
    alpha = rest.pop("alpha", None)
    try:
        if "down" in rest or "up" in rest:
            change, rank = _product(rest.pop("up"), rest.pop("down"))
        elif any(name.startswith("lokr") for name in rest):
            first, rank_1 = _factor(rest, "lokr_w1")
            second, rank_2 = _factor(rest, "lokr_w2")
            change, rank = torch.kron(first, second), rank_1 if rank_2 is None else rank_2
        elif not rest:
            raise ValueError("it has an alpha alone")
        else:
            first, rank = _factor(rest, "hada_w1")
            second, _ = _factor(rest, "hada_w2")
            change = first * second.reshape(first.shape)  # where torch would stretch one to the other
    except KeyError as error:
        raise ValueError(f"{error.args[0]} is missing") from None
    except (RuntimeError, IndexError):  # what torch says of sizes
        found = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in parts.items())
        raise ValueError(f"sizes do not fit each other: {found}") from None
    if rank == 0:
        raise ValueError("its rank is 0")
    if rest:
        raise ValueError(f"{min(rest)} is one too many")
    if alpha is None or rank is None:
        return change
    if alpha.numel() != 1:
        raise ValueError(f"alpha is no number but {tuple(alpha.shape)}")
    return change * (alpha.reshape(()) / rank)


def _factor(parts: dict[str, Tensor], name: str) -> tuple[Tensor, int | None]:
    """Take a factor out of the parts; return it as a matrix with its rank, None where it is whole."""
    if name in parts:
        return parts.pop(name).flatten(1), None
    rows, columns = parts.pop(f"{name}_a"), parts.pop(f"{name}_b")
    if (core := parts.pop(CORES.get(name, ""), None)) is None:
        return _product(rows, columns)
    return torch.einsum("ij...,ip,jr->pr...", core, rows, columns).flatten(1), len(columns)


def _product(rows: Tensor, columns: Tensor) -> tuple[Tensor, int]:
    """Return the product of two matrices, which may be those of convolutions, with its rank."""
    return rows.flatten(1) @ columns.flatten(1), len(columns)


def change_size(parts: Mapping[str, Tensor]) -> tuple[int, int]:
    """Return the numbers of rows and columns of `weight_change`, which is not computed; errors are the same."""
    rows, columns = weight_change({name: tensor.to("meta") for name, tensor in parts.items()}).shape
    return rows, columns
