"""The network that is trained: all its weights or adapters, the frozen start beside it, and its files."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from alignbench.errors import UserError
from alignbench.models.lagged_weights import LaggedWeights
from alignbench.models.weights import policy_files
from alignbench.models.weights.adapter_files import BlockNames
from alignbench.models.weights.find_policy import DenoiserName
from alignbench.models.weights.low_rank import adapters_of, diffusers_keys, scale_adapters
from alignbench.models.weights.policy_files import Adapters
from alignbench.models.weights.quantised import quantise_blocks

CAST_BY_AUTOCAST = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Policy(ABC):
    """The policy of a model adapter, which sets the attributes.

    Attributes:
        pipeline: the diffusers pipeline whose denoiser is the policy.
        policy: the denoiser, or its wrapped form in a distributed run; the reference inside `reference()`.
        reference_network: frozen copy of the start; None where adapters can be switched off instead, or where nothing
            asked for a reference.
        lagged_weights: those of the old policy, which the loop keeps for methods that have a `lag`; None for others.
        lora_targets: names of the linear layers that get adapters.
    """

    denoiser_name: ClassVar[DenoiserName]
    single_file_keys: ClassVar[Mapping[str, tuple[str, ...]]]
    original_blocks: ClassVar[BlockNames] = {}  # layers of blocks as adapters of the first published layout name them
    has_comfyui_keys: ClassVar[bool] = False  # whether it is known which keys ComfyUI reads adapters under
    pipeline: Any
    policy: nn.Module
    reference_network: nn.Module | None
    lagged_weights: LaggedWeights | None = None
    lora_targets: Sequence[str]

    @property
    @abstractmethod
    def denoiser(self) -> Any:
        """The network itself, without the wrappers of a distributed run."""

    def prepare_training(
        self,
        tuning: Literal["full", "lora"],
        rank: int,
        alpha: float,
        weights_dtype: str | None = None,
        base_bits: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        """Make the policy trainable: all its weights, or adapters on its linear layers that start as the identity.

        Adapters loaded before become part of the start. New ones are float32 whatever the network's dtype: updates of
        the usual size would be rounded away in half precision.

        Args:
            weights_dtype: name of the dtype that the network is held in; None leaves it as it is.
            base_bits: what adapters' frozen base is quantised to, as by `quantise_blocks`; None leaves it as it is.
            device: where that is done; where the network lies, by default.
        """
        self.fold_adapters()
        if weights_dtype is not None:
            nn.Module.to(self.denoiser, getattr(torch, weights_dtype))
        if base_bits is not None:
            quantise_blocks(self.denoiser, base_bits, device)
        if tuning == "full":
            self.denoiser.requires_grad_(True)
        else:
            policy_files.add_adapters(self.denoiser, Adapters(rank, alpha, self.lora_targets))
        # processes that share a gradient wait for one of each parameter that is trained
        for name, parameter in self.denoiser.named_parameters():
            if name.startswith(tuple(f"{layer}." for layer in self.unread_layers)):
                parameter.requires_grad_(False)

    @property
    def unread_layers(self) -> Sequence[str]:
        """Names of the denoiser's layers on which no prediction depends, so that they get no gradient."""
        return ()

    @property
    def is_lora(self) -> bool:
        """Whether the policy is the frozen start with adapters on it."""
        return policy_files.has_adapters(self.denoiser)

    def fold_adapters(self) -> None:
        """Make adapters part of the weights: what follows (training, a loaded policy) starts from their sum."""
        if self.is_lora:
            self.denoiser.fuse_lora()
            self.denoiser.unload_lora()

    def make_reference(self, computes_in: torch.dtype | None = None) -> None:
        """Keep the start for `reference()`. Free for adapters (they are switched off); a frozen copy otherwise.

        Args:
            computes_in: the dtype to which autocast casts the weights of linear layers and convolutions. Of frozen
                weights it would do so in every call, so the copy has them in it. None leaves them as they are.
        """
        if self.is_lora:
            return
        reference = copy.deepcopy(self.denoiser).requires_grad_(False)
        if computes_in is not None:
            for module in reference.modules():
                if isinstance(module, CAST_BY_AUTOCAST):
                    module.to(computes_in)
        self.reference_network = reference

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Let `predict` and `sample` answer for the frozen start instead of the policy."""
        if self.is_lora:
            self.denoiser.disable_adapters()
            try:
                yield
            finally:
                self.denoiser.enable_adapters()
            return
        if self.reference_network is None:
            raise RuntimeError("this run keeps no reference; a method that uses one sets needs_reference")
        policy, self.policy = self.policy, self.reference_network
        try:
            yield
        finally:
            self.policy = policy

    @torch.no_grad()
    def scale_policy(self, strength: float) -> None:
        """Replace the policy by start + strength * (policy - start), in its weights.

        Adapters get another scale. Whole weights are computed in float32 at least from the start that `load_policy` or
        `make_reference` kept, and that is dropped then.

        Args:
            strength: 0 is the start, 1 changes nothing.
        """
        if self.is_lora:
            scale_adapters(self.denoiser, strength)
            return
        if self.reference_network is None:
            raise RuntimeError("this model keeps no start; load the policy with keep_start")
        start = self.reference_network.state_dict()
        for name, weight in self.denoiser.state_dict().items():
            wide = torch.promote_types(weight.dtype, torch.float32)
            first = start[name].to(wide)
            weight.copy_(first + strength * (weight.to(wide) - first))
        self.reference_network = None

    @contextmanager
    def old_policy(self) -> Iterator[None]:
        """Let `predict` and `sample` answer for the old policy. No graph may be under construction."""
        if self.lagged_weights is None:
            raise RuntimeError("this run keeps no old policy; a method that uses one sets lag")
        with self.lagged_weights.in_place():
            gather_anew(self.policy)
            yield
        gather_anew(self.policy)

    # ---- weights on disk

    def save_policy(self, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
        """Write the trained weights as diffusers loads them: a network folder, or pytorch_lora_weights.safetensors.

        Args:
            weights: those of the denoiser by name, where the network itself has no more than shards of them.
        """
        policy_files.save_policy(self.pipeline, self.denoiser_name, folder, weights)

    def comfyui_keys(self) -> dict[str, Tensor]:
        """Return the policy's adapters under keys that ComfyUI reads, and diffusers too.

        Raises:
            UserError: nobody has tried which keys ComfyUI reads for the family.
        """
        if not self.has_comfyui_keys:
            raise UserError(
                "nobody has tried under which keys ComfyUI reads adapters of this family; export with --format lora"
            )
        return diffusers_keys(self.denoiser_name, adapters_of(self.denoiser))

    def load_policy(self, path: Path | str, revision: str | None = None, keep_start: bool = False) -> None:
        """Take trained weights in whatever layout they lie; adapters replace those there are, they do not add up.

        LoKr and LoHa have no low rank in general. They become part of the weights.

        Args:
            path: a folder or file, or a hub id.
            revision: commit, branch or tag on the hub.
            keep_start: whether `reference` is to answer for the weights that were there before, as `make_reference`.

        Raises:
            UserError: if there are none, or a tensor is missing, left over or of another shape.
        """
        original = self.single_file_keys.get(self.denoiser_name, ())
        weights = policy_files.read_policy(self.denoiser_name, path, revision)
        if self.is_lora:
            self.denoiser.unload_lora()
        if keep_start and not weights.is_lora:
            self.make_reference()
        policy_files.put_policy(self.pipeline, self.denoiser_name, weights, original, self.original_blocks)

    def load_checkpoint(
        self,
        run: str,
        weights: Mapping[str, Tensor],
        average: Sequence[Tensor] | None = None,
        adapters: Adapters | None = None,
    ) -> None:
        """Take what a run had trained at a checkpoint, as the policy would be taken that it would have saved then.

        Args:
            run: path of the run, for the sentence.
            weights: the trained parameters of the denoiser by name.
            average: their moving average in the order of the denoiser's parameters, taken in their place; None if the
                run keeps none.
            adapters: what was trained; None for the whole denoiser.

        Raises:
            UserError: if a tensor is missing, left over or of another shape.
        """
        self.fold_adapters()
        policy_files.load_checkpoint(self.denoiser, run, weights, average, adapters)


def is_sharded(network: nn.Module) -> bool:
    """Say whether a process has only its part of the weights (FSDP2), so that a call waits for those of the others."""
    from torch.distributed.fsdp import FSDPModule

    return isinstance(network, FSDPModule)


def gather_anew(network: nn.Module) -> None:
    """Let go of whole weights that shards were gathered to (FSDP2) and that may be kept after a forward pass."""
    from torch.distributed.fsdp import FSDPModule

    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
