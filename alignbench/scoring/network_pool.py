"""Which networks that read images are in memory: all of them while they fit, otherwise one at a time."""

import torch
from torch import nn

from alignbench.devices import free_memory
from alignbench.evaluator import ImageReader

RESERVE = 4 * 2**30  # bytes left free for activations and pictures


class NetworkPool:
    """The networks on one device.

    Those that make room for another wait on the CPU where the device is an accelerator; where it is the CPU itself,
    they are forgotten and read again.

    Args:
        device: where they work.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._held: list[ImageReader] = []
        self._largest = 0  # bytes of one network so far

    def use(self, reader: ImageReader) -> None:
        """Have the network of an evaluator, or of features, on the device, taking others away if memory is short."""
        if reader in self._held:
            return
        if self.device.type == "cpu":  # what a network takes is known only when it is there
            self._make_room(self._largest)
            size = _size(reader.network)
        else:
            size = _size(reader.network)
            self._make_room(size)
            reader.to(self.device)
        self._largest = max(self._largest, size)
        self._held.append(reader)

    def clear(self) -> None:
        """Take all networks away."""
        for reader in self._held:
            if self.device.type == "cpu":
                reader.release()
            else:
                reader.to("cpu")
        self._held.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _make_room(self, size: int) -> None:
        if self._held and free_memory(self.device) < size + RESERVE:
            self.clear()


def _size(network: nn.Module | None) -> int:
    """Return the bytes of a network's parameters."""
    return 0 if network is None else sum(tensor.numel() * tensor.element_size() for tensor in network.parameters())
