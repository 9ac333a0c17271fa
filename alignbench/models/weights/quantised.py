"""Linear layers held in 8 or 4 bits: frozen, unpacked whenever they are called, with gradients for what lies before.

Weights alone are quantised; what is computed with them is not. A layer is the same function with and without a
gradient, on every device, so that a policy and its reference differ by nothing but the adapters.
"""

import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

BITS = (8, 4)
# what networks call their blocks; some transformers have plain layers, and refiners before them
BLOCKS = re.compile(r"(^|_)blocks?\.|^layers\.|_refiner\.")
BLOCK = 64  # consecutive weights that share a scale
CHUNK = 2**22 // BLOCK  # blocks unpacked at once: what lies between is small beside a layer, and stays in fast memory

# The 4-bit NormalFloat: quantiles of a normal distribution, scaled to -1..1, with an exact zero.
# Source: Dettmers et al. 2023 (QLoRA), appendix E; the values are those of bitsandbytes.
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


def quantise_blocks(network: nn.Module, bits: int, device: torch.device | str | None = None) -> None:
    """Hold the linear layers inside of a network's blocks in 8 or 4 bits, one after the other.

    They are nearly all of a transformer's weights and most of a UNet's. What leads into the blocks and out of them,
    convolutions, norms and adapters stay as they are.

    Args:
        bits: one of BITS.
        device: where layers are quantised and stay; where they lie, by default.
    """
    for name, parent in list(network.named_modules()):
        for child, layer in list(parent.named_children()):
            path = f"{name}.{child}"
            if type(layer) is nn.Linear and BLOCKS.search(path) and "lora_" not in path:
                setattr(parent, child, QuantisedLinear(layer, bits, device))


class QuantisedLinear(nn.Linear):
    """A frozen linear layer in 8 or 4 bits.

    Attributes:
        weight: what `pack` makes of the weights; a buffer, since nothing trains it.
        scales: of its blocks.
    """

    def __init__(self, layer: nn.Linear, bits: int, device: torch.device | str | None = None) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        packed, scales = pack(layer.weight.detach().to(device or layer.weight.device), bits)
        self.register_buffer("weight", packed)
        self.register_buffer("scales", scales)
        self.bias = layer.bias

    def _apply(self, fn: Any, recurse: bool = True) -> nn.Module:
        scales = self.scales
        super()._apply(fn, recurse)
        self.scales = scales.to(self.scales.device)  # a change of dtype is for what is computed, not for how it is kept
        return self

    def forward(self, input: Tensor) -> Tensor:
        """Return what the layer makes of `input` [..., in_features], in its dtype or that of autocast."""
        device = input.device.type
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):  # not for meta
            input = input.to(torch.get_autocast_dtype(device))
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return _Linear.apply(input, self.weight, self.scales, bias, (self.out_features, self.in_features))


class _Linear(torch.autograd.Function):
    """The product with an unpacked matrix, which is made again for the backward pass instead of being kept."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, packed: Tensor, scales: Tensor, bias: Tensor | None, shape: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(packed, scales)
        ctx.shape = shape
        return functional.linear(input, unpack(packed, scales, shape, input.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = grad_outputs
        packed, scales = ctx.saved_tensors
        return gradient @ unpack(packed, scales, ctx.shape, gradient.dtype), None, None, None, None


def pack(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return a matrix in few bits, and one float32 scale for each block of 64 weights that follow each other.

    In 8 bits a weight is a whole number in -127..127 times the scale. In 4 bits it is one of the 16 values of NF4 times
    the scale, which is the largest magnitude of its block; the first of two weights is in the upper half of a byte.

    Args:
        weight: any shape, floating point.
        bits: one of BITS.

    Returns:
        int8 [blocks, 64] or uint8 [blocks, 32], the last block filled up with zeros; and float32 [blocks, 1].
    """
    flat = weight.flatten().float()
    blocks = functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    scales = blocks.abs().amax(dim=1, keepdim=True)
    unit = blocks / scales.clamp_min(torch.finfo(torch.float32).tiny)
    if bits == 8:
        return (unit * 127).round().to(torch.int8), scales / 127
    code = torch.tensor(NF4, device=weight.device)
    nearest = torch.bucketize(unit, (code[1:] + code[:-1]) / 2).to(torch.uint8)
    return nearest[:, 0::2] << 4 | nearest[:, 1::2], scales


def unpack(packed: Tensor, scales: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return the matrix that `pack` was given, as nearly as its bits allow, rounded once to `dtype`."""
    weight = torch.empty(len(packed), BLOCK, dtype=dtype, device=packed.device)
    parts = (tensor.split(CHUNK) for tensor in (packed, scales, weight))
    if packed.dtype == torch.uint8:
        code = torch.tensor(NF4, device=packed.device)
        pairs = torch.cartesian_prod(code, code)  # of each of the 256 bytes, its two values
        for some, scale, out in zip(*parts, strict=True):
            torch.mul(functional.embedding(some.int(), pairs).flatten(1), scale, out=out)
    else:
        for some, scale, out in zip(*parts, strict=True):
            torch.mul(some, scale, out=out)
    num_weights = shape[0] * shape[1]
    return weight.view(-1)[:num_weights].view(shape)
