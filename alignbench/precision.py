"""In which precision float32 numbers are multiplied: the one place where it is set."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def multiply_float32(tf32: bool) -> None:
    """Set how matrix products and convolutions of float32 numbers are computed on a GPU.

    Args:
        tf32: with 10 bits of mantissa, several times faster; otherwise with all 23, as a CPU does.
    """
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32  # torch itself lets convolutions have it


@contextmanager
def float32_products(tf32: bool) -> Iterator[None]:
    """Have them computed so for a while, and exactly afterwards: scores must not depend on how training was done."""
    multiply_float32(tf32)
    try:
        yield
    finally:
        multiply_float32(tf32=False)
