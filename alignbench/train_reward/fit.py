"""The loop that fits a judge to pairs: one function, read from top to bottom, the same for every kind of judge."""

import math
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import gather_object
from diffusers.optimization import get_scheduler
from omegaconf import DictConfig
from torch import Tensor
from tqdm.auto import tqdm

from alignbench.configuration.build import build
from alignbench.data.batches.sampler import StepSampler
from alignbench.files import append_json_lines, forget_later_steps
from alignbench.reward_model import RewardModel
from alignbench.statistics.reliability import log_loss
from alignbench.store.reward_model_folder import LOG, pooled
from alignbench.terminal.signals import noted
from alignbench.train_reward.pairs import PairSplit, Reader
from alignbench.training.checkpoint import Checkpoints, Counters
from alignbench.training.parallel import Replicated


class BestWeights:
    """The weights with the least validation loss so far."""

    def __init__(self, reward_model: RewardModel) -> None:
        self.reward_model = reward_model
        self.step = 0
        self.loss = float("inf")
        self.weights: dict[str, Tensor] = {}

    def offer(self, step: int, loss: float) -> None:
        """Keep the present weights if they are better than those before."""
        if loss < self.loss:
            self.step, self.loss = step, loss
            self.weights = {name: tensor.detach().cpu().clone() for name, tensor in self._trained().items()}

    @torch.no_grad()
    def give_back(self) -> None:
        """Put the kept weights into the judge."""
        for name, tensor in self._trained().items():
            tensor.copy_(self.weights[name])

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "loss": self.loss, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.loss, self.weights = state["step"], state["loss"], state["weights"]

    def _trained(self) -> dict[str, Tensor]:
        return {name: parameter for name, parameter in self.reward_model.named_parameters() if parameter.requires_grad}


def fit(
    reward_model: RewardModel,
    reader: Reader,
    split: PairSplit,
    probability: np.ndarray,
    settings: DictConfig,
    seed: int,
    folder: Path,
    accelerator: Accelerator,
) -> dict[str, Any]:
    """Train a judge in place, on the device; it ends with the weights that predict the validation pairs best.

    A fit that was killed continues from its last checkpoint, and a signal writes one after the update in which it
    comes. The order of the pairs depends on `seed` alone.

    Args:
        probability: that the winner is preferred, by the data, of each pair.
        settings: the node `train`.
        folder: of checkpoints and log.

    Returns:
        What was used: updates, the update whose weights were kept, its validation loss, seconds, processes.
    """
    device = accelerator.device
    parallel = Replicated(accelerator)
    parallel.place(reward_model)
    parameters = parallel.parameters(reward_model)
    optimizer = partial(build(settings.optimizer), lr=settings.learning_rate)(parameters)
    lr_scheduler = get_scheduler(
        settings.lr_scheduler,
        optimizer,
        num_warmup_steps=settings.lr_warmup_steps,
        num_training_steps=settings.max_train_steps,
    )
    network, optimizer = parallel.wrap(reward_model, optimizer, settings.max_grad_norm)

    # resume from the last checkpoint, if a fit was killed
    progress, best = Counters(), BestWeights(reward_model)
    parts: dict[str, Any] = {"optimizer": optimizer, "lr_scheduler": lr_scheduler, "best": best}
    if accelerator.scaler is not None:
        parts["scaler"] = accelerator.scaler
    checkpoints = Checkpoints(
        folder / "checkpoints",
        accelerator,
        progress,
        {"judge": reward_model},
        parts,
        in_background=settings.checkpoints_in_background,
    )
    checkpoints.load_last()
    log = folder / LOG
    if accelerator.is_main_process and log.exists():
        forget_later_steps(log, progress.step)
    began = time.monotonic() - progress.train_seconds

    sampler = StepSampler(
        len(split.train),
        settings.total_batch_size,
        group_size=1,
        seed=seed,
        rank=accelerator.process_index,
        num_processes=accelerator.num_processes,
        start_step=progress.step,
    )
    share = settings.total_batch_size // accelerator.num_processes
    num_micro_batches = -(-share // settings.micro_batch_size)

    def micro_batches() -> Iterator[list[int]]:
        for places in sampler:
            rows = [split.train[position] for _, position in places]
            for start in range(0, share, settings.micro_batch_size):
                yield rows[start : start + settings.micro_batch_size]

    batches = reader.read(micro_batches())
    bar = tqdm(
        total=settings.max_train_steps,
        initial=progress.step,
        desc="judge",
        unit="update",
        disable=not accelerator.is_main_process,
        dynamic_ncols=True,
    )
    reward_model.train()

    def has_patience() -> bool:
        return settings.patience_steps is None or progress.step - best.step < settings.patience_steps

    with noted() as stop, checkpoints:
        while progress.step < settings.max_train_steps and has_patience():
            sums = torch.zeros(3, device=device, dtype=torch.float64)  # of losses, of wins, of pairs
            for number in range(num_micro_batches):
                batch = next(batches).to(device)
                with parallel.micro_batch(network, is_last=number + 1 == num_micro_batches):
                    with accelerator.autocast():
                        winner, loser = network(batch.images, batch.texts).float().chunk(2)
                    losses = F.binary_cross_entropy_with_logits(winner - loser, batch.probability, reduction="none")
                    if not torch.isfinite(losses).all():
                        raise FloatingPointError(f"the loss is not finite at update {progress.step + 1}")
                    parallel.backward(losses.sum())
                ones = torch.ones_like(losses)
                seen = torch.stack([losses.detach(), (winner > loser).float(), ones]).double()
                sums += seen.sum(dim=1)
            # distributed training averages over processes what should be a sum over pairs
            parallel.collect(parameters, accelerator.num_processes / settings.total_batch_size)
            norm = float(parallel.clip(parameters, [], settings.max_grad_norm))
            if not math.isfinite(norm) and settings.mixed_precision != "fp16":  # which skips such updates
                raise FloatingPointError(f"the gradient is not finite at update {progress.step + 1}")
            metrics = {"lr": float(lr_scheduler.get_last_lr()[0]), "grad_norm": norm}
            parallel.step(optimizer)
            lr_scheduler.step()
            progress.step += 1
            bar.update()

            is_last = progress.step == settings.max_train_steps
            if progress.step % settings.evaluation_steps == 0 or is_last:
                margins = predict(reward_model, reader, split.validation, settings.micro_batch_size, accelerator)
                loss = log_loss(margins, probability[split.validation])
                best.offer(progress.step, loss)
                metrics["validation_loss"] = loss
                bar.set_postfix({"validation": f"{loss:.4f}", "best": f"{best.loss:.4f} at {best.step}"})
            if progress.step % settings.logging_steps == 0 or "validation_loss" in metrics:
                loss_sum, wins, num_pairs = cast(Tensor, accelerator.reduce(sums, reduction="sum")).tolist()
                metrics |= {"loss": loss_sum / num_pairs, "accuracy": wins / num_pairs}
                if accelerator.is_main_process:
                    append_json_lines(log, [{"step": progress.step, **metrics}])
            # the main process's clock is that of all, and a signal to one is one to all
            seconds = time.monotonic() - began if accelerator.is_main_process else 0.0
            shared = torch.tensor([seconds, *stop.counts], device=device, dtype=torch.float64)
            progress.train_seconds, *signals = cast(Tensor, accelerator.reduce(shared, reduction="sum")).tolist()
            is_due = checkpoints.due(settings.checkpointing_steps, settings.checkpointing_minutes)
            if stop.agree(signals):
                checkpoints.save(wait=True)
                stop.act()
            # the best weights are a part of the checkpoint: what was found best is never lost
            elif (is_due or "validation_loss" in metrics) and not is_last:
                checkpoints.save()
    bar.close()
    best.give_back()
    return {
        "optimizer_steps": progress.step,
        "selected_step": best.step,
        "validation_loss": best.loss,
        "train_seconds": progress.train_seconds,
        "num_processes": accelerator.num_processes,
        "trainable_parameters": sum(parameter.numel() for parameter in parameters),
    }


@torch.no_grad()
def predict(
    reward_model: RewardModel, reader: Reader, rows: list[int], batch_size: int, accelerator: Accelerator
) -> np.ndarray:
    """Return score of the winner minus score of the loser of each pair, [N], float64, on all processes.

    Computed in the numbers that evaluators score in. The judge is left in the mode in which it was.
    """
    mine = list(range(len(rows)))[accelerator.process_index :: accelerator.num_processes]
    parts = [mine[start : start + batch_size] for start in range(0, len(mine), batch_size)]
    was_training = reward_model.training
    reward_model.eval()
    found: list[tuple[int, float]] = []
    for places, batch in zip(parts, reader.read([rows[place] for place in part] for part in parts), strict=True):
        inputs = batch.to(accelerator.device)
        winner, loser = reward_model(inputs.images, inputs.texts).double().chunk(2)
        found += zip(places, (winner - loser).tolist(), strict=True)
    reward_model.train(was_training)
    margins = np.empty(len(rows))
    for place, margin in gather_object(found):
        margins[place] = margin
    return margins


@torch.no_grad()
def pooled_features(
    reward_model: RewardModel, reader: Reader, rows: list[int], batch_size: int, device: torch.device
) -> Tensor:
    """Return one vector of features for each image of some pairs, [2 * N, D], float32, on the CPU."""
    was_training = reward_model.training
    reward_model.eval()
    found = []
    for batch in reader.read(rows[start : start + batch_size] for start in range(0, len(rows), batch_size)):
        images = batch.to(device).images
        features = images if reward_model.frozen_features else reward_model.image_features(images)
        found.append(pooled(features).float().cpu())
    reward_model.train(was_training)
    return torch.cat(found)
