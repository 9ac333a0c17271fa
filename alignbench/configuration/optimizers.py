"""What an optimizer needs of the weights, found by letting it make a few updates of small ones."""

from collections.abc import Mapping
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, cast

from omegaconf import DictConfig, OmegaConf

from alignbench.configuration.build import build, check_package
from alignbench.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

SIDE, NUM_UPDATES = 4, 3


def needs_whole_weights(optimizer: Mapping[str, Any]) -> bool:
    """Say whether the update of a number depends on the rest of its weight, so that shards of weights would not do.

    Adafactor does, which averages over rows and columns, and so does Prodigy, which finds one learning rate for all
    weights; AdamW does not.

    Args:
        optimizer: the node `train.optimizer`, whose package is installed.
    """
    together, apart = _halves_together_and_apart(OmegaConf.to_yaml(OmegaConf.create(dict(optimizer)), resolve=True))
    return _differ(together, apart)


def needs_all_weights(optimizer: Mapping[str, Any]) -> bool:
    """Say whether the update of a weight depends on the other weights, so that some at a time would not do.

    Prodigy does, which finds one learning rate for all.

    Args:
        optimizer: as above.
    """
    together, apart = _weights_together_and_apart(OmegaConf.to_yaml(OmegaConf.create(dict(optimizer)), resolve=True))
    return _differ(together, apart)


def check_optimizer(optimizer: Mapping[str, Any]) -> None:
    """Refuse an optimizer whose package is not installed, and arguments that it refuses, as a negative weight decay.

    Args:
        optimizer: as above.

    Raises:
        UserError: with the words of the optimizer.
    """
    # a recipe may have chosen it
    check_package(optimizer["_target_"], "train.optimizer", ", or choose optimizer=adamw")

    import torch

    make: Any = partial(build(OmegaConf.create({"train": {"optimizer": dict(optimizer)}}).train.optimizer), lr=1.0)
    try:
        make([torch.nn.Parameter(torch.zeros(SIDE, SIDE))])
    except Exception as error:  # of whatever kind another package raises for a name or a value
        told = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"train.optimizer={optimizer['_target_']} refuses its arguments: {told}") from None


@lru_cache
def _halves_together_and_apart(node: str) -> tuple["Tensor", "Tensor"]:
    """Return a matrix after some updates, and the same of its halves, each with an optimizer as on a process."""
    import torch

    (gradient,) = _gradients(1)
    halves = [_updated(node, [half])[0] for half in gradient.chunk(2, dim=1)]
    return _updated(node, [gradient])[0], torch.cat(halves)


@lru_cache
def _weights_together_and_apart(node: str) -> tuple["Tensor", "Tensor"]:
    """Return two matrices after some updates by one optimizer, and by an optimizer each."""
    import torch

    gradients = _gradients(2)
    apart = [_updated(node, [gradient])[0] for gradient in gradients]
    return torch.cat(_updated(node, gradients)), torch.cat(apart)


def _gradients(number: int) -> list["Tensor"]:
    """Return gradients of some matrices of very different size, for each update, [updates, 4, 4]."""
    import torch

    generator = torch.Generator().manual_seed(0)
    scale = torch.logspace(0, 1, SIDE)[:, None]
    return [scale * torch.randn(NUM_UPDATES, SIDE, SIDE, generator=generator) * 10**index for index in range(number)]


def _updated(node: str, gradients: list["Tensor"]) -> list["Tensor"]:
    """Return what an optimizer makes of weights that start at 0."""
    import torch

    weights = [torch.nn.Parameter(torch.zeros_like(gradient[0])) for gradient in gradients]
    make: Any = partial(build(cast(DictConfig, OmegaConf.create(node))), lr=1.0)
    optimizer = make(weights)
    for update in range(NUM_UPDATES):
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient[update].clone()
        optimizer.step()
    return [weight.detach() for weight in weights]


def _differ(one: "Tensor", other: "Tensor") -> bool:
    import torch

    return not torch.allclose(one, other, rtol=1e-4, atol=0)
