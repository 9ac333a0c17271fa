"""How many bytes an optimizer keeps beside the weights, found by stepping it on tensors that take no memory."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from alignbench.training.bfloat16_updates import WeightUpdates, make_optimizer


class UnknownState(Exception):
    """An optimizer that cannot be stepped on tensors without numbers; its text says why."""


def state_bytes(
    make: Callable[[list[nn.Parameter]], Optimizer], parameters: Sequence[Tensor], weight_updates: WeightUpdates
) -> int:
    """Return the bytes of all tensors that an optimizer keeps, what it keeps of rounding included.

    Two weights of each shape and dtype are stepped, and count for all that are alike: what both of them name is kept
    once, as are the code books of 8-bit optimizers. Single numbers, such as counts of steps, are left out.

    Args:
        make: makes the optimizer of a list of parameters.
        parameters: the weights that are trained, on any device; only shapes and dtypes are read.
        weight_updates: how bfloat16 weights are updated.

    Raises:
        UnknownState: if the optimizer cannot be stepped so.
    """
    kinds = Counter((parameter.shape, parameter.dtype) for parameter in parameters)
    stepped = [kind for kind, number in kinds.items() for _ in range(min(number, 2))]
    with ExitStack() as stack:
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(_NumbersAreOne())
        weights = [nn.Parameter(torch.empty(shape, dtype=dtype)) for shape, dtype in stepped]
        try:
            optimizer = make_optimizer(make, weights, weight_updates, seed=0)
            for weight in weights:
                weight.grad = torch.empty_like(weight)
            optimizer.step()
            kept = list(_tensors(optimizer.state_dict()))
        except Exception as error:  # whatever a foreign optimizer does with tensors that hold no numbers
            raise UnknownState(f"{type(error).__name__}: {error}".splitlines()[0]) from error
    owners: dict[int, set[int | None]] = defaultdict(set)
    sizes: dict[int, int] = {}
    for number, tensor in kept:
        storage = tensor.untyped_storage()
        owners[storage._cdata].add(number)
        sizes[storage._cdata] = storage.nbytes()
    first = {kind: stepped.index(kind) for kind in kinds}
    total = 0
    for storage, numbers in owners.items():
        (number,) = numbers if len(numbers) == 1 else (None,)
        if number is None:
            total += sizes[storage]
        elif number == first[stepped[number]]:
            total += sizes[storage] * kinds[stepped[number]]
    return total


class _NumbersAreOne(TorchDispatchMode):
    """Answers 1 where an optimizer reads a number out of a tensor that has none."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1.0
        return func(*args, **(kwargs or {}))


def _tensors(node: Any, number: int | None = None) -> Iterator[tuple[int | None, Tensor]]:
    """Yield the tensors of a state but for single numbers, each with the number of the weight that it belongs to."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _tensors(value, key if isinstance(key, int) else number)
    elif isinstance(node, Tensor) and node.dim():
        yield number, node
