"""Where the networks lie that only help to train another: on its device, or on the CPU while nobody calls them."""

from collections.abc import Sequence

import torch
from accelerate import cpu_offload_with_hook
from torch import nn


class Helpers:
    """Text encoders and a VAE beside the policy.

    Args:
        modules: the networks; they are called as modules, or as a VAE of diffusers is.
        device: where they work.
        offload: whether they lie on the CPU, come to the device when they are called and stay until `rest`; otherwise
            they are on the device all the time.
    """

    def __init__(self, modules: Sequence[nn.Module], device: torch.device, offload: bool) -> None:
        self.device = device
        self._hooks = [cpu_offload_with_hook(module, device)[1] for module in modules] if offload else []
        if not offload:
            for module in modules:
                module.to(device)

    def rest(self) -> None:
        """Send those away that lie on the CPU between calls."""
        for hook in self._hooks:
            hook.offload()
        if self._hooks and self.device.type == "cuda":
            torch.cuda.empty_cache()  # what they leave is in pieces that suit nothing else
