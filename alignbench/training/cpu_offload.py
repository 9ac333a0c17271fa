"""Frozen networks that training calls now and then: on the device, or on the CPU between calls."""

from collections.abc import Sequence

import torch
from accelerate import cpu_offload_with_hook
from torch import nn


class CpuOffload:
    """Text encoders and a VAE beside the policy.

    Args:
        modules: the networks; they are called as modules, or as a VAE of diffusers is.
        device: where they compute.
        enabled: whether they lie on the CPU, move to the device when they are called and stay there until `offload`;
            otherwise they are on the device all the time.
    """

    def __init__(self, modules: Sequence[nn.Module], device: torch.device, enabled: bool) -> None:
        self.device = device
        self._hooks = [cpu_offload_with_hook(module, device)[1] for module in modules] if enabled else []
        if not enabled:
            for module in modules:
                module.to(device)

    def offload(self) -> None:
        """Move the networks back to the CPU, if they lie there between calls."""
        for hook in self._hooks:
            hook.offload()
        if self._hooks and self.device.type == "cuda":
            torch.cuda.empty_cache()  # the freed blocks are of sizes that nothing else can use
