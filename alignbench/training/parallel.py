"""How the processes of a run hold the networks: whole copies (DDP), shards (FSDP2), shared optimizers (DeepSpeed).

The loop sees the trained weights through `parameters`: plain tensors whose `grad` it may read and change, whether they
are whole or this process's shards, so averages, limits and optimizers need not know. What a single process cannot know
from its shard (a norm, the whole weights) is asked for here.

The engines are called here and not by accelerate, because accelerate shards one network alone (the reference is a
second), never on a CPU, and does without where it cannot, all in silence.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from alignbench.configuration.launcher import engine_asked_for
from alignbench.errors import UserError

HALF = (torch.bfloat16, torch.float16)


def join(accelerator: Accelerator) -> "Replicated":
    """Return how this run's processes hold the networks."""
    engines = {"ddp": Replicated, "fsdp2": Sharded, "deepspeed": SharedOptimizer}
    return engines[engine_asked_for()](accelerator)


class Replicated:
    """Every process has the whole networks; DDP averages the gradients of the policy once an update."""

    shards: bool = False  # whether a process has only its part of the trained weights
    shares_optimizer: bool = False  # whether a process has only its part of the optimizer's state

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator

    def place(self, network: nn.Module) -> None:
        """Bring a network to where it works. Its parameters may be others afterwards."""
        network.to(self.accelerator.device)

    def parameters(self, network: nn.Module) -> list[nn.Parameter]:
        """Return what is trained of a placed network, as the loop and the optimizer see it."""
        return [p for p in network.parameters() if p.requires_grad]

    def wrap(self, network: nn.Module, optimizer: Optimizer, max_norm: float) -> tuple[nn.Module, Optimizer]:
        """Return what the loop calls and steps instead.

        Args:
            max_norm: the limit that every `step` will be given.
        """
        return self.accelerator.prepare(network, optimizer)

    def micro_batch(self, policy: nn.Module, is_last: bool) -> AbstractContextManager[None]:
        """Surround forward and backward of one micro-batch; gradients are exchanged after the last of an update."""
        return nullcontext() if is_last else self.accelerator.no_sync(policy)

    def backward(self, total: Tensor) -> None:
        """Add the gradient of `total` to that of the parameters."""
        self.accelerator.backward(total)

    def collect(self, parameters: list[nn.Parameter], factor: Tensor | float) -> None:
        """Put the gradients, averaged over processes, where the loop looks for them, multiplied by `factor`."""
        gradients = _gradients(parameters)
        for gradient in gradients:
            if gradient.dtype in HALF:  # to which a GPU would round the factor, too
                gradient.copy_(gradient.float().mul_(factor))
        wide = [gradient for gradient in gradients if gradient.dtype not in HALF]
        if wide:
            torch._foreach_mul_(wide, factor)

    def norm(self, tensors: Sequence[Tensor], whole: Sequence[Tensor] = ()) -> Tensor:
        """Return the norm of all `tensors`, shaped as `parameters`, and of `whole` ones that all processes have."""
        return _norm([*tensors, *whole], self.accelerator.device)

    def clip(self, parameters: list[nn.Parameter], whole: list[nn.Parameter], max_norm: float) -> Tensor:
        """Scale the common norm of the gradients down to `max_norm`; return what it was, [].

        Args:
            whole: further parameters, which all processes have.
        """
        return cast(Tensor, self.accelerator.clip_grad_norm_([*parameters, *whole], max_norm))

    def step(self, optimizer: Optimizer) -> None:
        """Make one update from the gradients."""
        optimizer.step()
        optimizer.zero_grad()

    def whole_state(self, network: nn.Module) -> dict[str, Tensor]:
        """Return all weights of a placed network by name. All processes must ask; only the main one gets them."""
        return network.state_dict() if self.accelerator.is_main_process else {}


class Sharded(Replicated):
    """Every process has a shard of each weight, of its gradient and of its optimizer state (FSDP2).

    A block of the network is made whole while it is computed, and left again. Gradients are exchanged in every
    micro-batch: to wait for the last would keep whole ones, which is what sharding is to avoid.
    """

    shards = True
    shares_optimizer = True

    def __init__(self, accelerator: Accelerator) -> None:
        super().__init__(accelerator)
        from torch.distributed.device_mesh import init_device_mesh

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

    def wrap(self, network: nn.Module, optimizer: Optimizer, max_norm: float) -> tuple[nn.Module, Optimizer]:
        return network, optimizer

    def micro_batch(self, policy: nn.Module, is_last: bool) -> AbstractContextManager[None]:
        return nullcontext()

    def collect(self, parameters: list[nn.Parameter], factor: Tensor | float) -> None:
        for parameter, view in self._views:
            if parameter.grad is not None:
                view.grad = cast(Any, parameter.grad).to_local()
                parameter.grad = None
        super().collect(parameters, factor)

    def norm(self, tensors: Sequence[Tensor], whole: Sequence[Tensor] = ()) -> Tensor:
        device = self.accelerator.device
        square = _norm(tensors, device).square()
        torch.distributed.all_reduce(square)
        return (square + _norm(whole, device).square()).sqrt()

    def clip(self, parameters: list[nn.Parameter], whole: list[nn.Parameter], max_norm: float) -> Tensor:
        norm = self.norm(_gradients(parameters), _gradients(whole))
        torch.nn.utils.clip_grads_with_norm_([*parameters, *whole], max_norm, norm)
        return norm

    def whole_state(self, network: nn.Module) -> dict[str, Tensor]:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        # lands on the CPU of the main process, one tensor after the other
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return cast(dict[str, Tensor], get_model_state_dict(network, options=options))


class SharedOptimizer(Replicated):
    """Every process has the whole networks, and its part of gradients and optimizer state (DeepSpeed, ZeRO 1 and 2).

    Where weights are bfloat16, the optimizer steps float32 copies of them. Gradients are out of the loop's sight, so
    what reads or changes them is refused before (alignbench/configuration/checks.py).
    """

    shares_optimizer = True

    def wrap(self, network: nn.Module, optimizer: Optimizer, max_norm: float) -> tuple[nn.Module, Optimizer]:
        import deepspeed

        offload = os.environ.get("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "none")
        settings = {
            "train_micro_batch_size_per_gpu": 1,  # the loop splits batches itself
            "gradient_accumulation_steps": 1,
            "gradient_clipping": max_norm,
            "bf16": {"enabled": any(p.dtype == torch.bfloat16 for p in self.parameters(network))},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "zero_optimization": {
                "stage": int(os.environ["ACCELERATE_DEEPSPEED_ZERO_STAGE"]),
                "offload_optimizer": {"device": offload},
            },
        }
        # its annotations know neither the engine's attributes nor which optimizers it takes
        initialize: Any = deepspeed.initialize
        self._engine, *_ = initialize(model=network, optimizer=optimizer, config=settings, dist_init_required=False)
        return self._engine, cast(Optimizer, Partition(self._engine.optimizer))

    @contextmanager
    def micro_batch(self, policy: nn.Module, is_last: bool) -> Iterator[None]:
        self._engine.set_gradient_accumulation_boundary(is_last)
        self._engine.optimizer.override_loss_scale(1.0)
        yield

    def backward(self, total: Tensor) -> None:
        self._engine.backward(total, scale_wrt_gas=False)

    def collect(self, parameters: list[nn.Parameter], factor: Tensor | float) -> None:
        self._engine.optimizer.override_loss_scale(1 / float(factor))  # by which the step divides the gradients

    def clip(self, parameters: list[nn.Parameter], whole: list[nn.Parameter], max_norm: float) -> Tensor:
        self._engine.step()  # it clips and steps at once
        return torch.as_tensor(self._engine.get_global_grad_norm(), device=self.accelerator.device)

    def step(self, optimizer: Optimizer) -> None:
        pass


class Partition:
    """This process's part of an optimizer of DeepSpeed, as a state to keep: averages, and the float32 weights."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer

    def state_dict(self) -> dict[str, Any]:
        return {
            "averages": self.optimizer.optimizer.state_dict(),
            "weights": [part.detach() for part in self.optimizer.single_partition_of_fp32_groups],
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.optimizer.load_state_dict(state["averages"])
        for part, weights in zip(self.optimizer.single_partition_of_fp32_groups, state["weights"], strict=True):
            part.copy_(weights)


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
