"""How much memory the run has used."""

import resource
import sys

import torch


def peak_memory_gib() -> float:
    """Return the largest memory use so far, in GiB: of the accelerator where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
