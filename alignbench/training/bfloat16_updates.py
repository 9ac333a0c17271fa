"""Updates of bfloat16 weights that are not lost in rounding, for any optimizer.

A bfloat16 number has 8 significant bits, so a step below 1/512 of a weight rounds back to where it came from: with Adam
at 5e-6 a weight of 0.01 never moves. Here the optimizer steps float32 weights, which exist for some layers at a time,
and what a bfloat16 weight cannot hold is kept beside it or drawn.

Own code, because the libraries at hand fall short at the learning rates of these methods. A compensation in bfloat16
(torch-optimi 0.3.3) stalls in turn: at 5e-6 a weight of 1 has not moved after 2000 updates, and second moments in
bfloat16 do not decay at beta2 0.999. torchao 0.18 rounds stochastically in its quantised Adams alone, with draws of the
device's common generator, which need not agree between processes. Neither goes with another optimizer.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from alignbench.context import keyed_generator

WeightUpdates = Literal["nearest", "compensated", "stochastic"]

CHUNK = 2**26  # weights that are float32 at a time; with gradients and an optimizer's own copies about 1 GiB
LOW_BITS = 16  # of a float32, which a bfloat16 lacks


class Rounding(ABC):
    """How float32 weights become bfloat16, and float32 again for the next update."""

    @abstractmethod
    def widen(self, weight: Tensor, number: int) -> Tensor:
        """Return the float32 value of bfloat16 parameter `number`."""

    @abstractmethod
    def narrow(self, wide: Tensor, weight: Tensor, number: int, update: int) -> None:
        """Put the float32 value `wide` into bfloat16 parameter `number`, in update `update`."""

    @abstractmethod
    def state_dict(self) -> dict[int, Tensor]:
        """Return what is kept beside the parameters, by their number."""

    @abstractmethod
    def load_state_dict(self, state: dict[int, Tensor], weights: Sequence[Tensor]) -> None:
        """Take it back, to where the weights lie."""


class Compensated(Rounding):
    """Keep what rounding took away: the lower 16 bits of a float32 weight, whose upper 16 are the bfloat16 one.

    Updates are those of float32 weights, bit for bit; the network computes with them rounded to nearest, ties away from
    zero, so that the remainder always fits.
    """

    def __init__(self) -> None:
        self.remainders: dict[int, Tensor] = {}  # int16, signed

    def widen(self, weight: Tensor, number: int) -> Tensor:
        wide = weight.float()
        if number in self.remainders:
            wide.view(torch.int32).add_(self.remainders[number])
        return wide

    def narrow(self, wide: Tensor, weight: Tensor, number: int, update: int) -> None:
        bits = wide.view(torch.int32)
        rounded = (bits + (1 << (LOW_BITS - 1))) >> LOW_BITS << LOW_BITS
        self.remainders[number] = (bits - rounded).to(torch.int16)
        weight.copy_(rounded.view(torch.float32))

    def state_dict(self) -> dict[int, Tensor]:
        return self.remainders

    def load_state_dict(self, state: dict[int, Tensor], weights: Sequence[Tensor]) -> None:
        self.remainders = {number: value.to(weights[number].device) for number, value in state.items()}


class Stochastic(Rounding):
    """Round up or down by chance, so that the expectation is the float32 value; nothing is kept.

    Draws are keyed by seed, update and parameter: they are the same on all processes of one seed, and after an
    interruption.
    """

    def __init__(self, seed: int | str) -> None:
        self.seed = seed

    def widen(self, weight: Tensor, number: int) -> Tensor:
        return weight.float()

    def narrow(self, wide: Tensor, weight: Tensor, number: int, update: int) -> None:
        generator = keyed_generator(self.seed, "rounding", update, number, device=weight.device)
        bits = wide.view(torch.int32)
        carry = torch.randint(1 << LOW_BITS, bits.shape, generator=generator, device=bits.device, dtype=torch.int32)
        weight.copy_(((bits + carry) >> LOW_BITS << LOW_BITS).view(torch.float32))

    def state_dict(self) -> dict[int, Tensor]:
        return {}

    def load_state_dict(self, state: dict[int, Tensor], weights: Sequence[Tensor]) -> None:
        pass


class WideUpdates(Optimizer):
    """An optimizer whose bfloat16 weights are float32 while it steps; other weights it steps as they are.

    Its averages are those of float32 weights. It must treat each weight tensor by itself, as all do but those that look
    for a learning rate in all weights at once: it is stepped with some tensors at a time.

    Args:
        make: makes the optimizer of a list of parameters.
        parameters: what is trained.
    """

    def __init__(
        self, make: Callable[[list[nn.Parameter]], Optimizer], parameters: list[nn.Parameter], rounding: Rounding
    ) -> None:
        self.rounding = rounding
        self.update = 0
        self.inner = make([nn.Parameter(_empty(p)) for p in parameters])
        super().__init__(parameters, self.inner.defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Make one update from the gradients of the parameters."""
        self._follow_schedule()
        own, inner = self.param_groups[0], self.inner.param_groups[0]
        for numbers in _chunks(own["params"]):
            weights = [own["params"][number] for number in numbers]
            stand_ins = [inner["params"][number] for number in numbers]
            for number, weight, stand_in in zip(numbers, weights, stand_ins, strict=True):
                narrow = weight.dtype == torch.bfloat16
                stand_in.data = self.rounding.widen(weight, number) if narrow else weight.data
                stand_in.grad = weight.grad.to(stand_in.dtype)
            self.inner.step()
            for number, weight, stand_in in zip(numbers, weights, stand_ins, strict=True):
                if weight.dtype == torch.bfloat16:
                    self.rounding.narrow(stand_in.data, weight, number, self.update)
                stand_in.data, stand_in.grad = _empty(weight), None
        self.update += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's state and what rounding keeps."""
        self._follow_schedule()
        return {"inner": self.inner.state_dict(), "rounding": self.rounding.state_dict(), "update": self.update}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.inner.load_state_dict(state_dict["inner"])
        own, inner = self.param_groups[0], self.inner.param_groups[0]
        own |= {key: value for key, value in inner.items() if key != "params"}
        self.rounding.load_state_dict(state_dict["rounding"], own["params"])
        self.update = state_dict["update"]

    def _follow_schedule(self) -> None:
        """Give the optimizer its learning rate, which schedules set on this one."""
        settings = {key: value for key, value in self.param_groups[0].items() if key != "params"}
        self.inner.param_groups[0].update(settings)


def make_optimizer(
    make: Callable[[list[nn.Parameter]], Optimizer],
    parameters: list[nn.Parameter],
    weight_updates: WeightUpdates,
    seed: int | str,
) -> Optimizer:
    """Return the optimizer that `make` makes, with the updates of bfloat16 weights asked for.

    Args:
        weight_updates: `nearest` leaves them to the optimizer; see `Compensated` and `Stochastic`.
        seed: of the draws of `stochastic`.
    """
    if weight_updates == "nearest":
        return make(parameters)
    return WideUpdates(make, parameters, Compensated() if weight_updates == "compensated" else Stochastic(seed))


def _empty(parameter: Tensor) -> Tensor:
    """Return what stands for a parameter between updates: as many sides, since some optimizers look at them."""
    wide = torch.promote_types(parameter.dtype, torch.float32)
    return torch.empty((0,) * parameter.dim(), dtype=wide, device=parameter.device)


def _chunks(parameters: list[nn.Parameter]) -> Iterator[list[int]]:
    """Yield the numbers of those with a gradient, in runs of about `CHUNK` weights."""
    numbers, size = [], 0
    for number, parameter in enumerate(parameters):
        if parameter.grad is None:
            continue
        if numbers and size + parameter.numel() > CHUNK:
            yield numbers
            numbers, size = [], 0
        numbers.append(number)
        size += parameter.numel()
    if numbers:
        yield numbers
