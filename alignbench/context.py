"""What a method may know of the run around it: the step, its random draws, and the other processes."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CPU = torch.device("cpu")


def keyed_generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator that depends on `key` alone: the same in every process and batch layout.

    On the CPU it is also the same on every machine; elsewhere on every device of a kind, for draws too large to move.
    """
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little", signed=True))


def all_reduce_max(value: int, device: torch.device, num_processes: int) -> int:
    """Return the largest `value` of any process; they meet on `device`."""
    largest = torch.tensor(value, device=device)
    if num_processes > 1:
        torch.distributed.all_reduce(largest, op=torch.distributed.ReduceOp.MAX)
    return int(largest)


@dataclass(frozen=True)
class Context:
    """The run as one update sees it.

    Attributes:
        step: number of optimizer updates made so far.
        seed: the training seed; an auxiliary loss has one of its own.
        update: number of this update within its rollout, 0 for the rollout itself; every one has draws of its own.
        micro_batch_size: samples that fit through the network at once.
        num_processes: processes of the run.
        device: where noise goes.
    """

    step: int
    seed: int | str
    micro_batch_size: int
    num_processes: int = 1
    update: int = 0
    device: torch.device = CPU

    def sample_generator(self, index: int, purpose: str) -> torch.Generator:
        """Return the generator of one sample (its global index) for one named purpose."""
        return keyed_generator(self.seed, "sample", index, purpose, self.update)

    def shared_generator(self, purpose: str) -> torch.Generator:
        """Return a generator that is equal on all processes and new at each step."""
        return keyed_generator(self.seed, "shared", self.step, purpose)

    def noise(self, index: Tensor, shape: Sequence[int], purpose: str = "noise") -> Tensor:
        """Return Gaussian noise [B, *shape], float32, on the device, drawn on the CPU with one generator a sample."""
        rows = [torch.randn(tuple(shape), generator=self.sample_generator(i, purpose)) for i in index.tolist()]
        noise = torch.stack(rows)
        if self.device.type == "cuda":  # a copy from other memory would wait for all that the GPU has to do
            noise = noise.pin_memory()
        return noise.to(self.device, non_blocking=True)

    def uniform(self, index: Tensor, purpose: str) -> Tensor:
        """Return one number in 0..1 a sample, [B], float64 on the CPU."""
        draws = [self.sample_generator(i, purpose) for i in index.tolist()]
        return torch.stack([torch.rand((), generator=draw, dtype=torch.float64) for draw in draws])

    def reduce(self, total: Tensor, count: Tensor) -> Tensor:
        """Return sum(total) / sum(count) over all processes, so that uneven shares count right. No gradient."""
        both = torch.stack([total.detach().double(), count.detach().double()])
        if self.num_processes > 1:
            torch.distributed.all_reduce(both)
        return (both[0] / both[1]).to(total.dtype)

    def maximum(self, value: int, device: torch.device) -> int:
        """Return the largest `value` of any process.

        Args:
            device: where the processes meet: the network's.
        """
        return all_reduce_max(value, device, self.num_processes)

    def gather(self, values: Tensor) -> Tensor:
        """Return `values` of all processes joined in rank order; their lengths may differ. No gradient."""
        if self.num_processes == 1:
            return values.detach()
        lengths = [torch.zeros(1, dtype=torch.long, device=values.device) for _ in range(self.num_processes)]
        torch.distributed.all_gather(lengths, torch.tensor([len(values)], device=values.device))
        longest = int(max(lengths))
        padded = torch.cat([values.detach(), values.new_zeros(longest - len(values), *values.shape[1:])])
        parts = [torch.empty_like(padded) for _ in range(self.num_processes)]
        torch.distributed.all_gather(parts, padded)
        return torch.cat([part[: int(length)] for part, length in zip(parts, lengths, strict=True)])
