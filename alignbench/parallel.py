"""How the processes of a run hold the networks together: each a whole copy (DDP), or each a shard (FSDP2).

What is asked for is read from the environment, which `accelerate launch --config_file conf/accelerate/NAME.yaml` sets.
The loop sees the trained weights through `parameters`: plain tensors whose `grad` it may read and change, whether they
are whole or this process's shards, so averages, clipping and optimizers need not know. What a single process cannot
know from its shard (a norm, the whole weights) is asked for here.

Sharding is torch's own `fully_shard`, called here and not by accelerate, because accelerate shards one network alone
(the reference is a second), never on a CPU, and does without where it cannot, all in silence.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from alignbench.errors import UserError

Engine = Literal["ddp", "fsdp2"]


def engine_asked_for(environment: "os._Environ[str] | dict[str, str]" = os.environ) -> Engine:
    """Return what the launcher asked for.

    Raises:
        UserError: if it is something that this program cannot do.
    """

    def on(name: str) -> bool:
        return environment.get(name, "false").lower() in ("true", "1", "yes")

    for name, engine in (
        ("ACCELERATE_USE_MEGATRON_LM", "Megatron-LM"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "tensor, context or sequence parallelism"),
    ):
        if on(name):
            raise UserError(f"the launcher asks for {engine}, which is not supported; conf/accelerate has what is")
    if not on("ACCELERATE_USE_FSDP"):
        return "ddp"
    if environment.get("FSDP_VERSION", "1") != "2":
        raise UserError("the launcher asks for FSDP 1; set fsdp_version: 2, as conf/accelerate/fsdp2.yaml does")
    if on("FSDP_ACTIVATION_CHECKPOINTING"):
        raise UserError("fsdp_activation_checkpointing is memory=checkpointing here; set it to false")
    return "fsdp2"


def join(accelerator: Accelerator) -> "Replicated":
    """Return how this run's processes hold the networks.

    Raises:
        UserError: if sharding was asked for and there is nobody to share with.
    """
    if engine_asked_for() == "ddp":
        return Replicated(accelerator)
    if accelerator.num_processes == 1:
        raise UserError(
            "the launcher asks for FSDP, and there is one process, so nothing would be sharded; start several "
            "(--num_processes; on a CPU, torchrun --nproc_per_node), or do without FSDP"
        )
    return Sharded(accelerator)


class Replicated:
    """Every process has the whole networks; DDP averages the gradients of the policy once an update."""

    shards: bool = False  # whether a process has only its part of the trained weights

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator

    def place(self, network: nn.Module) -> None:
        """Bring a network to where it works. Its parameters may be others afterwards."""
        network.to(self.accelerator.device)

    def parameters(self, network: nn.Module) -> list[nn.Parameter]:
        """Return what is trained of a placed network, as the loop and the optimizer see it."""
        return [p for p in network.parameters() if p.requires_grad]

    def wrap(self, network: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        """Return what the loop calls and steps instead."""
        return self.accelerator.prepare(network, optimizer)

    def micro_batch(self, policy: nn.Module, is_last: bool) -> AbstractContextManager[None]:
        """Surround forward and backward of one micro-batch; gradients are exchanged after the last of an update."""
        return nullcontext() if is_last else self.accelerator.no_sync(policy)

    def backward(self, total: Tensor) -> None:
        """Add the gradient of `total` to that of the parameters."""
        self.accelerator.backward(total)

    def collect(self) -> None:
        """Put the exchanged gradients, averaged over processes, where the loop looks for them."""

    def norm(self, tensors: Sequence[Tensor], whole: Sequence[Tensor] = ()) -> Tensor:
        """Return the norm of all `tensors`, shaped as `parameters`, and of `whole` ones that all processes have."""
        return _norm([*tensors, *whole], self.accelerator.device)

    def clip(self, parameters: list[nn.Parameter], whole: list[nn.Parameter], max_norm: float) -> float:
        """Scale gradients down to a common norm of at most `max_norm`; return what it was."""
        return float(cast(Tensor, self.accelerator.clip_grad_norm_([*parameters, *whole], max_norm)))

    def whole_state(self, network: nn.Module) -> dict[str, Tensor]:
        """Return all weights of a placed network by name. All processes must ask; only the main one gets them."""
        return network.state_dict() if self.accelerator.is_main_process else {}


class Sharded(Replicated):
    """Every process has a shard of each weight, of its gradient and of its optimizer state (FSDP2).

    A block of the network is made whole while it is computed, and left again. Gradients are exchanged in every
    micro-batch: to wait for the last would keep whole ones, which is what sharding is to avoid.
    """

    shards = True

    def __init__(self, accelerator: Accelerator) -> None:
        super().__init__(accelerator)
        from torch.distributed.device_mesh import init_device_mesh

        if accelerator.scaler is not None:
            raise UserError("train.mixed_precision=fp16 cannot be sharded, because gradients are scaled; use bf16")
        self.mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
        self._views: list[tuple[nn.Parameter, nn.Parameter]] = []  # a sharded parameter, and this process's part of it

    def place(self, network: nn.Module) -> None:
        """Shard a network block by block, so that no more than one block is ever whole on the device.

        Raises:
            UserError: if weights are whole all the same.
        """
        from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard

        settings: dict[str, Any] = {
            "mesh": self.mesh,
            "mp_policy": MixedPrecisionPolicy(reduce_dtype=torch.float32),  # a sum of bfloat16 loses small ones
            "reshard_after_forward": os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() == "true",
        }
        if os.environ.get("FSDP_OFFLOAD_PARAMS", "false").lower() == "true":
            settings["offload_policy"] = CPUOffloadPolicy()
        for block in blocks(network):
            fully_shard(block, **settings)
        fully_shard(network, **settings)
        check_sharded(network, self.accelerator.num_processes)

    def parameters(self, network: nn.Module) -> list[nn.Parameter]:
        sharded = super().parameters(network)
        self._views += [(p, nn.Parameter(cast(Any, p).to_local().detach())) for p in sharded]
        return [view for _, view in self._views[-len(sharded) :]]

    def wrap(self, network: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        return network, optimizer

    def micro_batch(self, policy: nn.Module, is_last: bool) -> AbstractContextManager[None]:
        return nullcontext()

    def collect(self) -> None:
        for parameter, view in self._views:
            if parameter.grad is not None:
                view.grad = cast(Any, parameter.grad).to_local()
                parameter.grad = None

    def norm(self, tensors: Sequence[Tensor], whole: Sequence[Tensor] = ()) -> Tensor:
        device = self.accelerator.device
        square = _norm(tensors, device).square()
        torch.distributed.all_reduce(square)
        return (square + _norm(whole, device).square()).sqrt()

    def clip(self, parameters: list[nn.Parameter], whole: list[nn.Parameter], max_norm: float) -> float:
        norm = self.norm(_gradients(parameters), _gradients(whole))
        torch.nn.utils.clip_grads_with_norm_([*parameters, *whole], max_norm, norm)
        return float(norm)

    def whole_state(self, network: nn.Module) -> dict[str, Tensor]:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        # lands on the CPU of the main process, one tensor after the other
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return cast(dict[str, Tensor], get_model_state_dict(network, options=options))


def blocks(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the parts that are made whole together, inner ones first: those that diffusers would not split."""
    names = cast(Sequence[str], getattr(network, "_no_split_modules", None) or ())
    found = [module for module in network.modules() if type(module).__name__ in names]
    if not found:
        raise UserError(f"{type(network).__name__} names no blocks to shard; train it with conf/accelerate/ddp.yaml")
    yield from reversed(found)


def check_sharded(network: nn.Module, num_processes: int) -> None:
    """Refuse to go on with weights that are not split over the processes.

    Raises:
        UserError: naming one that is whole.
    """
    from torch.distributed.tensor import DTensor

    for name, parameter in network.named_parameters():
        share = -(-parameter.shape[0] // num_processes)
        if not isinstance(parameter, DTensor) or parameter.to_local().shape[0] > share:
            raise UserError(f"sharding over {num_processes} processes did not happen: {name} is whole on each of them")


def _gradients(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]


def _norm(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    if not tensors:
        return torch.zeros((), device=device)
    return torch.nn.utils.get_total_norm(tensors).to(device, torch.float32)
