"""Devices: their name, their memory, and the precision in which they multiply float32 numbers."""

import platform
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch


def device_name(device: torch.device) -> str:
    """Return what a reader of results would call the device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()


def free_memory(device: torch.device) -> int:
    """Return how many bytes of the device can still be taken."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return psutil.virtual_memory().available


def peak_memory_gib() -> float:
    """Return the largest memory use so far, in GiB: of the accelerator where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


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
