"""How much memory training will take, part by part, from the configuration alone: nothing is loaded.

Weights, gradients and averages are counted, what the optimizer keeps is found by stepping it, and a reward says itself
what it weighs: all of these are exact. Where one of them cannot be known the estimate says so, and then it only
advises. Activations are those tensors that the network saves for its backward pass when it is called on the meta
device, with attention that keeps no matrix of weights, as fused kernels do. Left out: memory that kernels use within
one operation, fragmentation, and the device's own share.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from importlib.util import find_spec
from typing import Any

import torch
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from alignbench.configuration.build import build, conf_folder, weights_dtype
from alignbench.crop import Size
from alignbench.data.batches.crops import CropPolicy
from alignbench.errors import UserError
from alignbench.evaluator import weight_bytes
from alignbench.models.adapter import ModelAdapter
from alignbench.models.reward_vae import reward_vae_skeleton
from alignbench.models.weights.skeleton import skeleton
from alignbench.training.bfloat16_updates import WeightUpdates
from alignbench.training.optimizer_memory import UnknownState, state_bytes

GIB = 2**30
# Sizes of cards, and how many GiB PyTorch reports for one: RTX 4090, L40S, H100 and H200.
CARDS = {"24 GB": 23.5, "48 GB": 47.4, "80 GB": 79.2, "141 GB": 139.8}
# Share of float32 activations that is left where mixed precision computes in 16 bits; norms and sums stay float32.
MIXED_SHARE = 0.75


@dataclass(frozen=True)
class Part:
    """One line of the estimate: what it is and how many bytes it takes.

    Attributes:
        unknown: why that is not known, in which case `num_bytes` is 0; empty where it is.
    """

    name: str
    num_bytes: float
    unknown: str = ""


@dataclass
class Saved:
    """What a forward pass keeps for the backward pass.

    Attributes:
        num_bytes: of all storages that were saved, but for those of the network itself.
        largest_block: of what one checkpointed block saves when it is computed again.
        largest: of the largest tensor saved.
    """

    num_bytes: int = 0
    largest_block: int = 0
    largest: int = 0
    _known: dict[int, Any] = field(default_factory=dict)

    @contextmanager
    def counting(self) -> Iterator[None]:
        with saved_tensors_hooks(self.add, lambda saved: saved):
            yield

    def add(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._known:
            self._known[storage._cdata] = storage  # kept, so that no other takes its place
            self.num_bytes += storage.nbytes()
            self.largest = max(self.largest, storage.nbytes())
        return tensor

    def ignore(self, network: nn.Module) -> None:
        """Leave out what belongs to the network."""
        for tensor in (*network.parameters(), *network.buffers()):
            self._known[tensor.untyped_storage()._cdata] = tensor.untyped_storage()

    def checkpoint(self, block: Callable[..., Any], *args: Any) -> Any:
        """Call a block as gradient checkpointing does: its inputs are kept, and once what it saves itself."""
        for value in args:
            if isinstance(value, Tensor):
                self.add(value)
        own = Saved(_known=dict(self._known))
        with own.counting():
            outputs = block(*args)
        self.largest_block = max(self.largest_block, own.num_bytes)
        self.largest = max(self.largest, own.largest)
        return outputs

    @property
    def peak(self) -> int:
        """Bytes at the worst moment of the backward pass: two gradients of the largest tensor lie beside the rest."""
        return self.num_bytes + self.largest_block + 2 * self.largest


def estimate(cfg: DictConfig, model: ModelAdapter | None = None, left_out: Collection[str] | None = None) -> list[Part]:
    """Return what training by `cfg` takes on each device, part by part.

    Args:
        cfg: a whole configuration.
        model: its skeleton on the meta device, which is changed; built if None.
        left_out: names of networks that are not loaded, because a cache has what they would compute; by default those
            that are not once the stage `prepare` was done, if it is asked for.

    Raises:
        UserError: if the architecture is unknown.
    """
    train = cfg.train
    dtype = weights_dtype(OmegaConf.to_container(cfg, resolve=True))  # pyright: ignore[reportArgumentType]
    with _Uninitialised():
        model = model or skeleton(cfg.model)
    with _Uninitialised(), torch.device("meta"):  # adapters begin on the CPU otherwise
        model.prepare_training(train.tuning, train.lora_rank, train.lora_alpha, dtype, train.base_bits)
    denoiser = model.denoiser
    trained = [p for p in denoiser.parameters() if p.requires_grad]
    methods = [cfg.method, *(term.term for term in cfg.auxiliary.values())]
    copies_of = [get_class(node._target_).weight_copies(node) for node in methods]
    calls = [get_class(node._target_).trained_calls(node, model) for node in methods]
    most = max(calls, key=lambda one: one.num * one.rows)
    crop_policy = CropPolicy.of(train, model)
    reads_pixels = any(get_class(node._target_).reads_pixels for node in methods)
    if left_out is None:
        needs_vae = reads_pixels or crop_policy.has_unlimited_crops
        prepared = [name for name in model.frozen_parts if not (name == "vae" and needs_vae)]
        left_out = prepared if "prepare" in cfg.stages and cfg.validation.every is None else ()
    absent = [getattr(model.pipeline, name) for name in left_out]
    if train.reward_vae is not None:
        model.reward_vae = reward_vae_skeleton(train.reward_vae, model)
    decodes = reads_pixels and model.reward_vae is None  # the model's own VAE, for losses
    text = sum(
        _bytes(part) for part in model.frozen_networks if part not in (model.pipeline.vae, model.reward_vae, *absent)
    )
    vae = 0 if model.pipeline.vae in absent else _bytes(model.pipeline.vae)

    full = train.tuning == "full"
    parts = [
        Part("weights", _bytes(denoiser)),
        Part("gradients", sum(p.nbytes for p in trained)),
        _optimizer(train, trained),
        Part("reference", _bytes(denoiser) if full and any(one.reference for one in copies_of) else 0),
        Part("old policy", sum(4 * p.numel() for p in trained) if any(one.old for one in copies_of) else 0),
        Part("average of weights", 0 if train.ema_decay is None else sum(4 * p.numel() for p in trained)),
        Part("start for weight_distance", sum(p.nbytes for p in trained) if train.weight_distance else 0),
        Part("text encoders", 0 if train.offload else text),
        Part("VAE", 0 if train.offload and not decodes else vae),
        Part("reward VAE", 0 if model.reward_vae is None else _bytes(model.reward_vae)),
    ]
    share, copies = 1.0, 0
    if train.mixed_precision != "no" and dtype == "float32":  # 16-bit copies of weights live as long as the graph
        share, copies = MIXED_SHARE, sum(2 * p.numel() for p in denoiser.parameters())
    largest = max(crop_policy.sizes, key=math.prod)
    network = _network_activations(model, train.micro_batch_size * most.rows, largest, train.gradient_checkpointing)
    earlier = (most.num - 1) * network.num_bytes  # of the calls that wait while the last one is worked through
    working = [Part("activations", (network.peak + earlier) * share + copies)]
    if reads_pixels:
        parts.append(_reward(cfg.method.reward))
    if any(get_class(node._target_).differentiates_pixels for node in methods):
        working.append(
            Part("VAE decode", _decode_activations(model, train.micro_batch_size, train.decode_checkpointing).peak)
        )
    # what lies in main memory comes before the network works, and is gone when it does
    visit = (text + (0 if reads_pixels else vae)) if train.offload else 0
    return [*parts, *working, Part("visit of text encoders", max(0, visit - total(working)))]


def total(parts: Sequence[Part]) -> float:
    """Return the bytes of all parts that are known."""
    return sum(part.num_bytes for part in parts)


Steps = tuple[tuple[str, dict[str, Any]], ...]
# what to change, from what costs least: of any training, of all weights, of adapters
SHARED_STEPS: Steps = (
    ("offload", {"offload": True}),
    ("checkpointing", {"gradient_checkpointing": True, "decode_checkpointing": True}),
    ("train.micro_batch_size=1", {"micro_batch_size": 1}),
)
FULL_STEPS: Steps = (
    *SHARED_STEPS,
    ("bf16_stochastic", {"weights_dtype": "bfloat16", "weight_updates": "stochastic"}),
    ("optimizer=adamw8bit", {"optimizer": "adamw8bit"}),
)
LORA_STEPS: Steps = (
    *SHARED_STEPS,
    ("base_8bit", {"base_bits": 8, "weights_dtype": "bfloat16"}),
    ("base_4bit", {"base_bits": 4, "weights_dtype": "bfloat16"}),
)


def advice(cfg: DictConfig, capacity: float) -> str:
    """Return what to add to the command so that its estimate is at most `capacity` bytes."""
    least = math.inf
    for words, needed in savings(cfg):
        if needed <= capacity:
            return f"{words} would need {needed / GIB:.1f} GiB"
        least = min(least, needed)
    return f"even all modes of docs/memory.md with adapters need {least / GIB:.1f} GiB"


def savings(cfg: DictConfig) -> Iterator[tuple[str, float]]:
    """Yield what can be added to a command to need less memory, and the bytes that it would need; a little first."""
    unknown = {part.name for part in estimate(cfg) if part.unknown}
    for tuning, steps in (("full", FULL_STEPS), ("lora", LORA_STEPS)):
        if tuning == "full" and cfg.train.tuning == "lora":
            continue
        trial = cfg.copy()
        OmegaConf.set_struct(trial, False)
        modes, others = [], [] if tuning == cfg.train.tuning else [f"train.tuning={tuning}"]
        trial.train = OmegaConf.merge(trial.train, {"tuning": tuning})
        for name, changes in steps:
            if name == "base_4bit":
                modes.remove("base_8bit")
            (others if "=" in name else modes).append(name)
            if "optimizer" in changes:
                trial.train.optimizer = OmegaConf.load(conf_folder() / "optimizer" / f"{changes['optimizer']}.yaml")
            else:
                trial.train = OmegaConf.merge(trial.train, changes)
            parts = estimate(trial)
            if not any(part.unknown for part in parts if part.name not in unknown):
                yield " ".join([f"memory=[{','.join(modes)}]", *others]), total(parts)


def table(cfg: DictConfig, capacity: float | None) -> str:
    """Return the estimate as lines of text, with the sizes of cards that it fits on.

    Args:
        capacity: bytes that are free on the card of this machine; None where there is none.
    """
    parts = estimate(cfg)
    needed = total(parts)
    lines = [f"{part.name:<26}{part.num_bytes / GIB:9.3f} GiB" for part in parts if part.num_bytes]
    lines += [f"{part.name:<26}  unknown: {part.unknown}" for part in parts if part.unknown]
    lines.append(f"{'together, a device':<26}{needed / GIB:9.3f} GiB{_without(parts)}")
    sizes = {f"on a card of {card}": size * GIB for card, size in CARDS.items()}
    if capacity is not None:
        sizes["free here"] = capacity
    tried, trials = [], savings(cfg)
    verdicts = {}
    for name, size in sorted(sizes.items(), key=lambda one: -one[1]):
        # the smaller the card, the more has to be saved: each search goes on where that for the larger one ended
        while size < needed and not any(least <= size for _, least in tried) and (found := next(trials, None)):
            tried.append(found)
        words, least = next((one for one in tried if one[1] <= size), ("", math.inf))
        saved = f"fits with {words}: {least / GIB:.1f} GiB" if words else "does not fit, whatever is saved"
        verdicts[name] = "fits" if needed <= size else saved
    lines += [f"{name:<26}{size / GIB:9.3f} GiB: {verdicts[name]}" for name, size in sizes.items()]
    return "\n".join(lines)


def refuse_what_cannot_fit(cfg: DictConfig, capacity: float, left_out: Collection[str] = ()) -> str:
    """Refuse training whose estimate is above `capacity` bytes, where some networks are not loaded.

    Returns:
        A sentence where a part or the architecture is unknown, in which case nothing is refused; empty otherwise.

    Raises:
        UserError: with the estimate and with what would fit.
    """
    try:
        parts = estimate(cfg, left_out=left_out)
    except UserError as error:
        return f"what training needs is unknown: {error}"
    needed = total(parts)
    told = f"training needs about {needed / GIB:.1f} GiB{_without(parts)} and {capacity / GIB:.1f} GiB are free"
    if any(part.unknown for part in parts):
        reasons = "; ".join(part.unknown for part in parts if part.unknown)
        return f"{told}: {reasons}"
    if needed > capacity:
        raise UserError(f"{told}; {advice(cfg, capacity)}; dry_run=true shows the parts")
    return ""


def _without(parts: Sequence[Part]) -> str:
    """Return which parts are not counted, as the end of a sum."""
    unknown = [part.name for part in parts if part.unknown]
    return f" without {' and '.join(unknown)}, which {'are' if len(unknown) > 1 else 'is'} unknown" if unknown else ""


# ---- parts


def _bytes(network: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))


def _optimizer(train: DictConfig, trained: Sequence[Tensor]) -> Part:
    """Return what the optimizer keeps, found by stepping it."""
    kinds = Counter((tuple(parameter.shape), parameter.dtype) for parameter in trained)
    try:
        node = OmegaConf.to_yaml(train.optimizer, resolve=True)
        return Part("optimizer", _stepped(node, train.weight_updates, tuple(sorted(kinds.items(), key=str))))
    except UnknownState as error:
        return Part(
            "optimizer", 0, unknown=f"{train.optimizer._target_} could not be stepped without weights ({error})"
        )


@lru_cache
def _stepped(node: str, weight_updates: WeightUpdates, kinds: tuple[tuple[tuple[Any, torch.dtype], int], ...]) -> int:
    """Return the bytes that the optimizer of a configuration keeps of so many weights of each shape and dtype."""
    target: Any = OmegaConf.create(node)
    if find_spec(target._target_.partition(".")[0]) is None:
        raise UnknownState("it is not installed")
    parameters = [torch.empty(shape, dtype=dtype, device="meta") for (shape, dtype), n in kinds for _ in range(n)]
    return state_bytes(partial(build(target), lr=1.0), parameters, weight_updates)


def _reward(node: DictConfig) -> Part:
    """Return the weights of a reward, as its class counts them."""
    settings: Any = OmegaConf.to_container(node, resolve=True)
    num_bytes = weight_bytes(get_class(settings.pop("_target_")), settings)
    if num_bytes is None:
        return Part("reward", 0, unknown=f"{node._target_} does not say what its network weighs (weight_bytes)")
    return Part("reward", num_bytes)


class _Uninitialised(TorchFunctionMode):
    """On the meta device there is nothing to fill with first values, but torch takes milliseconds a tensor to do so."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        fills = func in (Tensor.zero_, Tensor.fill_, Tensor.uniform_, Tensor.normal_)
        return args[0] if fills and args[0].is_meta else func(*args, **(kwargs or {}))


class _FusedAttention(torch.autograd.Function):
    """Attention as fused kernels save it: inputs and output, no matrix of weights."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, output)
        return output


class _Fused(TorchFunctionMode):
    """On the meta device torch would take the unfused path."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            inputs = [*args, *(kwargs[name] for name in ("query", "key", "value") if name in kwargs)]
            return _FusedAttention.apply(*inputs[:3])
        return func(*args, **kwargs)


def _network_activations(model: ModelAdapter, rows: int, size: Size, checkpointing: bool) -> Saved:
    saved = Saved()
    saved.ignore(model.denoiser)
    if checkpointing:
        model.denoiser.enable_gradient_checkpointing(saved.checkpoint)
    noisy = torch.zeros(rows, *model.latent_shape_at(*size), device=model.device)
    guidance = torch.ones(rows, device=model.device) if model.guidance_is_distilled else None
    with _Fused(), saved.counting():
        model.forward(noisy, torch.ones(rows, device=model.device), model.blank_conditioning(rows), guidance)
    return saved


def _decode_activations(model: ModelAdapter, rows: int, checkpointing: bool) -> Saved:
    saved, vae = Saved(), model.loss_vae
    saved.ignore(vae)
    decode = partial(model.decode, vae=vae)
    if checkpointing and not vae._supports_gradient_checkpointing:
        decode = partial(saved.checkpoint, decode)
    elif checkpointing:
        vae.enable_gradient_checkpointing()
        for module in vae.modules():
            if hasattr(module, "gradient_checkpointing"):
                module._gradient_checkpointing_func = saved.checkpoint
    latents = torch.zeros(rows, *model.latent_shape, device=model.device, dtype=vae.dtype, requires_grad=True)
    with _Fused(), saved.counting():
        decode(latents)
    return saved
