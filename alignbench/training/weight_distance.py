"""How far training has moved the weights of a network from where they started, relative to their norm."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from alignbench.models.weights.low_rank import adapters_of
from alignbench.training.parallel import Replicated


def weight_norm(network: nn.Module) -> float:
    """Return the norm of all weights of a network together."""
    return _together([torch.linalg.vector_norm(p.detach(), dtype=torch.float32) for p in network.parameters()])


class WeightDistance:
    """The norm of what training has added to a network, over that of the whole network as it was.

    Adapters count as what they add to the weights, so that they compare with weights that were trained themselves. For
    the latter a copy of the start is kept in main memory: by one process, or by each of its shard.

    Args:
        network: the denoiser, with its adapters if it has any.
        parameters: what is trained of it, still as it was at the start.
        is_lora: whether that is adapters.
        start_norm: of the network before adapters were put on it or its weights were quantised.
    """

    def __init__(
        self,
        network: nn.Module,
        parameters: Sequence[nn.Parameter],
        is_lora: bool,
        start_norm: float,
        parallel: Replicated,
    ) -> None:
        self.network, self.parameters, self.is_lora = network, parameters, is_lora
        self.start_norm, self.parallel = start_norm, parallel
        self.start: list[Tensor] = []
        if not is_lora and (parallel.shards or parallel.accelerator.is_main_process):
            self.start = [p.detach().to("cpu", copy=True) for p in parameters]

    @torch.no_grad()
    def measure(self) -> float:
        """Return it for the weights as they are. All processes must ask; only the main one need get it."""
        if self.is_lora:
            added = [_added(down, up, alpha / len(down)) for down, up, alpha in adapters_of(self.network).values()]
            return _together(added) / self.start_norm
        trained = self.parameters[: len(self.start)]  # none where another process has the copy
        moved = [_moved(p.detach(), start) for p, start in zip(trained, self.start, strict=True)]
        return float(self.parallel.norm(moved)) / self.start_norm


def _moved(now: Tensor, start: Tensor) -> Tensor:
    return torch.linalg.vector_norm(now.float() - start.to(now.device).float())


def _added(down: Tensor, up: Tensor, scale: float) -> Tensor:
    """Return the norm of `scale` times the product of two matrices, which is never formed: tr(B^T B A A^T)."""
    first, second = (_whole(matrix).flatten(1).double() for matrix in (down, up))
    square = ((second.mT @ second) * (first @ first.mT)).sum()
    return scale * square.clamp(min=0).sqrt()


def _whole(tensor: Tensor) -> Tensor:
    """Return a tensor of which this process may have only a shard; all processes must ask."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _together(norms: Sequence[Tensor]) -> float:
    return sum(float(norm) ** 2 for norm in norms) ** 0.5
