"""The training loop: one function, read from top to bottom, the same for every method and model."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from omegaconf import DictConfig
from torch import Tensor, nn
from tqdm.auto import tqdm

from alignbench.configuration.build import build
from alignbench.context import Context
from alignbench.data.batches.crops import CropPolicy
from alignbench.data.batches.reference_values import start_identity
from alignbench.data.batches.stream import Stream
from alignbench.data.source import DataSource
from alignbench.devices import peak_memory_gib
from alignbench.files import append_json_lines, forget_later_steps, replacing_folder
from alignbench.method import Method
from alignbench.models.adapter import ModelAdapter
from alignbench.models.lagged_weights import LaggedWeights
from alignbench.models.policy import gather_anew
from alignbench.store.run_folder import RunFolder
from alignbench.terminal.signals import noted
from alignbench.training.bfloat16_updates import make_optimizer
from alignbench.training.checkpoint import Checkpoints, Stateful, Weights
from alignbench.training.compile_and_attention import compile_networks, set_attention_backend
from alignbench.training.cpu_offload import CpuOffload
from alignbench.training.parallel import join
from alignbench.training.profiling import profiled
from alignbench.training.progress import Limits, Progress
from alignbench.training.tracking import Tracking
from alignbench.training.update import add_gradients, autocast, of_samples, read, rollout, take_gradients, update
from alignbench.training.validation import Validation
from alignbench.training.weight_distance import WeightDistance, weight_norm

SHOWN = ("loss", "reward", "accuracy")  # metrics beside the progress bar


@dataclass(frozen=True)
class Trained:
    """What a run has come to.

    Attributes:
        budget: what it has used, as the manifest names it, looks of a validation left out.
        weight_distance: of the weights that were kept; see `alignbench.training.weight_distance`. Of the main process.
    """

    budget: dict[str, Any]
    weight_distance: float


@dataclass(frozen=True)
class Auxiliary:
    """A loss that is added to that of any method: weight times the loss of another method on data of its own."""

    weight: float
    method: Method
    data: DataSource

    def seed(self, seed: int) -> str:
        """Return the seed of its draws; with the run's own, its images would meet the noise of the method's."""
        return f"{seed}/{self.method.name}"


def train(
    cfg: DictConfig,
    model: ModelAdapter,
    method: Method,
    data: DataSource,
    folder: RunFolder,
    accelerator: Accelerator,
    auxiliary: Sequence[Auxiliary] = (),
    validation: Validation | None = None,
    tracking: Tracking | None = None,
    profile: bool = False,
) -> Trained:
    """Train the policy of `model` by `method` and write it to the run folder.

    The losses of `auxiliary` terms are added to that of the method in every update.

    A run that was killed continues from its last checkpoint, and a signal writes one after the rollout in which it
    comes. Draws are keyed by the sample's place in the run, so they do not depend on the number of processes, the
    micro-batches or an interruption.

    Training ends after `train.max_train_steps` updates, after the rollout that reaches `train.max_network_passes` or
    `train.max_train_minutes`, or when `validation` has lost its patience. What is written is the last weights, or those
    that `validation` found best.
    """
    settings = cfg.train
    device = accelerator.device
    parallel = join(accelerator)
    torch.manual_seed(cfg.seed)  # initial adapters; every later draw is keyed

    # what is trained, and what only helps
    frozen_networks = CpuOffload(model.frozen_networks, device, settings.offload)
    weights = (settings.weights_dtype, settings.base_bits, device)
    model.fold_adapters()
    start_norm = weight_norm(model.denoiser)
    all_methods = (method, *(term.method for term in auxiliary))
    has_fixed_draws = any(one.num_draws is not None for one in all_methods)
    start_weights = start_identity(model, settings) if has_fixed_draws else None
    model.prepare_training(settings.tuning, settings.lora_rank, settings.lora_alpha, *weights)
    model.enable_checkpointing(settings.gradient_checkpointing, settings.decode_checkpointing)
    if settings.attention_backend is not None:
        set_attention_backend(model.denoiser, settings.attention_backend)
    if any(one.needs_reference for one in all_methods):
        autocast_dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(settings.mixed_precision)
        model.make_reference(None if parallel.shards else autocast_dtype)  # a shard has one dtype
    if settings.compile:
        compile_networks(model)
    for network in (model.denoiser, model.reference_network):
        if network is not None:
            parallel.place(network)
    for module in method.frozen_modules().values():
        module.requires_grad_(False).eval().to(device)
    own = method.trainable_modules()
    for module in own.values():
        module.to(device)
    policy_parameters = parallel.parameters(model.denoiser)
    model.lagged_weights = None if method.lag is None else LaggedWeights(policy_parameters)
    own_parameters = [p for module in own.values() for p in module.parameters() if p.requires_grad]
    parameters = policy_parameters + own_parameters
    start = [p.detach().clone() for p in policy_parameters] if settings.weight_distance else None
    distance = WeightDistance(model.denoiser, policy_parameters, model.is_lora, start_norm, parallel)

    # optimizer, schedule, averages
    make = partial(build(settings.optimizer), lr=settings.learning_rate)
    rounding_seed = (
        f"{cfg.seed}/{accelerator.process_index}" if parallel.shards else cfg.seed
    )  # whole copies stay equal
    optimizer = make_optimizer(make, parameters, settings.weight_updates, rounding_seed)
    lr_scheduler = get_scheduler(
        settings.lr_scheduler,
        optimizer,
        num_warmup_steps=settings.lr_warmup_steps,
        num_training_steps=settings.max_train_steps,
    )
    ema = None
    if settings.ema_decay is not None:  # float32, or its small steps would be lost
        wide = [p.to(torch.promote_types(p.dtype, torch.float32)) for p in policy_parameters]
        ema = EMAModel(cast(list[nn.Parameter], wide), decay=settings.ema_decay)

    # processes: wrapped networks, the plain scheduler (it steps once an update whatever their number)
    model.policy, optimizer = parallel.wrap(model.denoiser, optimizer, settings.max_grad_norm)

    # resume from the last checkpoint, if a run was killed
    progress = Progress()
    parts: dict[str, Stateful] = {"lr_scheduler": lr_scheduler, "method": method}
    shards: dict[str, Stateful] = {}
    (shards if parallel.shares_optimizer else parts)["optimizer"] = optimizer
    if ema is not None:
        (shards if parallel.shards else parts)["ema"] = ema
    if accelerator.scaler is not None:
        parts["scaler"] = accelerator.scaler
    if model.lagged_weights is not None:
        (shards if parallel.shards else parts)["old_policy"] = model.lagged_weights
    if parallel.shards:
        shards["policy"] = Weights(policy_parameters)
    if validation is not None:
        parts["validation"] = validation
    networks = own if parallel.shards else {"policy": model.denoiser, **own}
    checkpoints = Checkpoints(
        folder.checkpoints, accelerator, progress, networks, parts, shards, settings.checkpoints_in_background
    )
    checkpoints.load_last()
    log = Log(folder.train_log, progress.step, accelerator.is_main_process, tracking)
    began = time.monotonic() - progress.train_seconds

    def totals(*further: float) -> list[float]:
        """Return the network passes and reward calls of all processes since they started, and the sums of `further`."""
        where = device if accelerator.num_processes > 1 else "cpu"
        own = torch.tensor([model.network_passes, method.reward_calls, *further], dtype=torch.float64).to(where)
        return cast(Tensor, accelerator.reduce(own, reduction="sum")).tolist()

    crop_policy = CropPolicy.of(settings, model)

    def stream(method: Method, data: DataSource, seed: int | str, start_step: int) -> Stream:
        return Stream(
            method,
            data,
            model,
            folder.path.parent / "cache",
            total_batch_size=settings.total_batch_size,
            seed=seed,
            rank=accelerator.process_index,
            num_processes=accelerator.num_processes,
            start_step=start_step,
            num_workers=settings.dataloader_num_workers,
            crop_policy=crop_policy,
            micro_batch_size=settings.micro_batch_size,
            start=start_weights,
            autocast=accelerator.autocast,
        )

    def save_policy(path: Path) -> None:
        weights = parallel.whole_state(model.denoiser)
        if accelerator.is_main_process:
            with replacing_folder(path) as unfinished:
                model.save_policy(unfinished, weights)
        accelerator.wait_for_everyone()

    def evaluate(validation: Validation) -> None:
        with averaged(model.denoiser, policy_parameters, ema):  # what would be saved
            validation.evaluate(
                progress.step, model, save_policy, distance.measure(), parallel.shards, progress.network_passes
            )
        frozen_networks.offload()

    limits = Limits.of(settings)
    batches = stream(method, data, cfg.seed, progress.rollouts)
    streams = [stream(term.method, term.data, term.seed(cfg.seed), progress.step) for term in auxiliary]
    # what was computed for the cache serves all runs, and is in the budget of none
    passes_before, rewards_before = map(int, totals())
    passes_before, rewards_before = progress.network_passes - passes_before, progress.reward_calls - rewards_before
    for one in (batches, *streams):
        if one.buckets is not None and accelerator.is_main_process:
            tqdm.write(f"  buckets     {one.method.name}: {one.buckets.summary()}")
    bar = tqdm(
        total=settings.max_train_steps,
        initial=progress.step,
        desc="train",
        unit="update",
        disable=not accelerator.is_main_process,
        dynamic_ncols=True,
    )

    networks = [model.denoiser, model.reference_network, *model.frozen_networks, *method.frozen_modules().values()]
    profiles = profile and accelerator.is_main_process
    with ExitStack() as ends:
        for one in (batches, *streams):
            ends.enter_context(closing(one))
        stop = ends.enter_context(noted())
        ends.enter_context(checkpoints)
        profiler = ends.enter_context(profiled(profiles, folder, networks, device))
        while True:
            is_end = limits.reached(progress)
            if validation is not None and validation.due(progress.step, progress.network_passes, is_end):
                checkpoints.settle()  # a look takes long, and a signal ends it at once
                with stop.at_once():
                    evaluate(validation)
                began = time.monotonic() - progress.train_seconds
            if is_end or (validation is not None and validation.exhausted):
                break

            share = batches.next()
            frozen_networks.offload()  # its prompts and pictures are encoded
            layout = (settings.micro_batch_size, accelerator.num_processes)
            context = Context(progress.step, cfg.seed, *layout, device=device)
            progress.rollouts += 1
            progress.samples_seen += settings.total_batch_size

            for number, micro_batches in enumerate(autocast(rollout(method, model, share, context), accelerator)):
                context = replace(context, step=progress.step, update=number)
                gradients, figures, beside = [], [], dict(method.beside)
                for term, its_batches in zip(auxiliary, streams, strict=True):
                    its_context = replace(context, seed=term.seed(cfg.seed), update=0)
                    its_share = its_batches.next()
                    frozen_networks.offload()
                    (its_micro_batches,) = autocast(rollout(term.method, model, its_share, its_context), accelerator)
                    its_figures = update(
                        term.method, model, its_micro_batches, its_context, parallel, policy_parameters, []
                    )
                    figures.append((f"{term.method.name}/", its_figures))
                    gradients.append((term.weight, take_gradients(policy_parameters)))
                own_figures = update(method, model, micro_batches, context, parallel, policy_parameters, own_parameters)
                figures.append(("", own_figures))
                for weight, gradient in gradients:
                    add_gradients(policy_parameters, gradient, weight)
                if start is not None:
                    moved = torch._foreach_sub([p.detach() for p in policy_parameters], start)
                    add_gradients(policy_parameters, moved, settings.weight_distance)
                    beside["weight_distance"] = parallel.norm(moved)
                if settings.max_grad_value is not None:
                    accelerator.clip_grad_value_(parameters, settings.max_grad_value)
                beside["grad_norm"] = parallel.clip(policy_parameters, own_parameters, settings.max_grad_norm)
                metrics, numbers = read(figures, beside, accelerator)  # here the loop waits
                norm = numbers.pop("grad_norm")
                if not math.isfinite(norm) and settings.mixed_precision != "fp16":  # which skips such updates
                    told = f"the gradient of method={method.name} is not finite at update {progress.step + 1}"
                    raise FloatingPointError(f"{told}, {of_samples(micro_batches, accelerator)}")
                metrics |= {name: value for name, value in numbers.items() if not math.isnan(value)}  # of nothing
                metrics |= {"lr": float(lr_scheduler.get_last_lr()[0]), "grad_norm": norm}
                parallel.step(optimizer)
                lr_scheduler.step()
                if ema is not None:
                    ema.step(policy_parameters)
                progress.step += 1
                bar.update()
                bar.set_postfix({name: f"{metrics[name]:.3g}" for name in SHOWN if name in metrics})
                if progress.step % settings.logging_steps == 0:
                    log.write({"step": progress.step, **metrics})
                profiler.step()
                if progress.step == settings.max_train_steps:
                    break

            # the main process's clock decides for all: by their own, a time limit would end each at another update
            seconds = time.monotonic() - began if accelerator.is_main_process else 0.0
            passes, rewards, progress.train_seconds, *signals = totals(seconds, *stop.counts)
            progress.network_passes, progress.reward_calls = passes_before + int(passes), rewards_before + int(rewards)
            bar.total = limits.expected_steps(progress)
            is_due = checkpoints.due(settings.checkpointing_steps, settings.checkpointing_minutes)
            if stop.agree(signals):
                checkpoints.save(wait=True)
                stop.act()
            elif is_due and not limits.reached(progress):
                checkpoints.save()
    bar.close()

    # the result, as diffusers loads it
    if validation is not None and validation.best_step is not None:
        validation.finish(folder.policy)
        kept_distance = validation.best_distance
    else:
        with averaged(model.denoiser, policy_parameters, ema):
            save_policy(folder.policy)
            kept_distance = distance.measure()
    budget = {
        "optimizer_steps": progress.step,
        "samples_seen": progress.samples_seen,
        "rollouts": progress.rollouts,
        "network_passes": progress.network_passes,
        "reward_calls": progress.reward_calls,
        "train_seconds": progress.train_seconds,
        "device_hours": progress.train_seconds * accelerator.num_processes / 3600,
        "peak_memory_gib": peak_memory_gib(),
        "trainable_parameters": sum(p.numel() for p in parameters),
    }
    return Trained(budget, kept_distance)


@contextmanager
def averaged(network: nn.Module, parameters: list[nn.Parameter], ema: EMAModel | None) -> Iterator[None]:
    """Put the averages, if there are any, in the place of the weights of a network."""
    if ema is None:
        yield
        return
    ema.store(parameters)
    ema.copy_to(parameters)
    gather_anew(network)
    yield
    ema.restore(parameters)
    gather_anew(network)


class Log:
    """train.jsonl: one line a log step. Lines after the step that a run resumes from are dropped; they come again.

    A tracker is told the same, and how long an update takes.
    """

    def __init__(self, path: Path, step: int, active: bool, tracking: Tracking | None) -> None:
        self.path = path
        self.active = active
        self.tracking = tracking
        self._last = (step, time.monotonic())
        if active and path.exists():
            forget_later_steps(path, step)

    def write(self, record: dict[str, float]) -> None:
        if not self.active:
            return
        append_json_lines(self.path, [record])
        if self.tracking is not None:
            step, now = int(record["step"]), time.monotonic()
            values = {f"train/{name}": value for name, value in record.items() if name != "step"}
            values["perf/seconds_per_update"] = (now - self._last[1]) / max(step - self._last[0], 1)
            values["perf/peak_memory_gib"] = peak_memory_gib()
            self.tracking.log(values, step)
            self._last = (step, now)
