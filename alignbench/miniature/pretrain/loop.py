"""The one training loop of pretraining: it resumes exactly, keeps an average of the weights, reports progress."""

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from torch import nn

Metrics = dict[str, float]
LossFunction = Callable[[int, torch.Generator], tuple[torch.Tensor, Metrics]]


@dataclass(frozen=True)
class Plan:
    """How long and how fast one network is trained.

    num_updates: length of the run; the learning rate rises over the first 4 % of it and falls as a cosine to zero.
    learning_rate: its highest value.
    muon: matrices whose name contains this are trained by Muon, the others at half the rate by AdamW; all by AdamW when
        empty. From the same weights, FLUX reached in 300 updates the loss that took AdamW 550.
    weight_decay: of either.
    ema_decay: of the running average of the weights, which is what gets shipped.
    checkpoint_seconds: time between two writes of the state.
    stop_at: leave after this many updates although the run is longer; the next call goes on from there.
    """

    num_updates: int
    learning_rate: float
    muon: str = ""
    weight_decay: float = 0.01
    ema_decay: float = 0.999
    checkpoint_seconds: float = 60.0
    stop_at: int | None = None


def learning_rate_at(step: int, plan: Plan) -> float:
    """Return the learning rate of update number `step`, counted from 0."""
    warmup = max(1, round(0.04 * plan.num_updates))
    if step < warmup:
        return plan.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, plan.num_updates - warmup)
    return plan.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def generator_at(seed: int, step: int) -> torch.Generator:
    """Return the source of every draw of one update. It depends on nothing else, so a resumed run draws the same."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def train(module: nn.Module, loss_of: LossFunction, plan: Plan, folder: Path, name: str, seed: int = 0) -> nn.Module:
    """Train `module` in place and return it with its averaged weights, in evaluation mode.

    Args:
        module: all parameters that are trained; in float32.
        loss_of: gives the loss of an update, and numbers to print, from its step and its generator.
        folder: where the state lies; a state found there is continued, so a killed run is called again.
        name: heads the progress lines; seed: of all draws.
    """
    optimizers = _optimizers(module, plan)
    ema = EMAModel(module.parameters(), decay=plan.ema_decay, foreach=True)
    state_path, step = folder / "state.pt", 0
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        module.load_state_dict(state["module"])
        for optimizer, its_state in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(its_state)
        ema.load_state_dict(state["ema"])
        step = state["step"]
        print(f"{name}: continues at update {step} of {plan.num_updates}", flush=True)
    last = plan.num_updates if plan.stop_at is None else min(plan.stop_at, plan.num_updates)
    module.train()
    started = reported = saved = time.monotonic()
    first_step, losses = step, []
    while step < last:
        loss, metrics = loss_of(step, generator_at(seed, step))
        module.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(step, plan) * group["share"]
            optimizer.step()
        ema.step(module.parameters())
        step += 1
        losses.append(loss.item())
        now = time.monotonic()
        if now - reported > 15.0 or step == last:
            rate = (step - first_step) / (now - started)
            numbers = "".join(f" {key} {value:.4f}" for key, value in metrics.items())
            print(
                f"{name}: update {step} of {plan.num_updates}, loss {sum(losses) / len(losses):.4f}{numbers}, "
                f"{rate:.2f} updates/s, {(plan.num_updates - step) / rate / 60:.1f} min left",
                flush=True,
            )
            reported, losses = now, []
        if now - saved > plan.checkpoint_seconds or step == last:
            states = [optimizer.state_dict() for optimizer in optimizers]
            state = {"module": module.state_dict(), "optimizers": states, "ema": ema.state_dict(), "step": step}
            save_atomically(state, state_path)
            saved = now
    ema.copy_to(module.parameters())
    return module.eval()


def _optimizers(module: nn.Module, plan: Plan) -> list[torch.optim.Optimizer]:
    """Return the optimizers; a group's `share` is its part of the learning rate."""
    by_muon = [p for name, p in module.named_parameters() if plan.muon and plan.muon in name and p.ndim > 1]
    chosen = {id(parameter) for parameter in by_muon}
    others = [parameter for parameter in module.parameters() if id(parameter) not in chosen]
    share = 0.5 if by_muon else 1.0
    adamw = torch.optim.AdamW(
        [{"params": others, "share": share}],
        lr=plan.learning_rate,
        betas=(0.9, 0.99),
        weight_decay=plan.weight_decay,
        fused=True,
    )
    if not by_muon:
        return [adamw]
    return [adamw, Muon(by_muon, plan.learning_rate, plan.weight_decay)]


class Muon(torch.optim.Muon):
    """Muon of PyTorch, which takes matrices alone, for kernels of convolutions too: each is a matrix of its outputs.

    An update has the size of one of AdamW at the same learning rate (Liu et al. 2025).

    Args:
        parameters: of two or more dimensions, contiguous; they must stay where they are.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], lr: float, weight_decay: float = 0.01) -> None:
        self.parameters = list(parameters)
        self.matrices = [nn.Parameter(parameter.detach().view(len(parameter), -1)) for parameter in self.parameters]
        group = {"params": self.matrices, "share": 1.0}
        super().__init__([group], lr, weight_decay, adjust_lr_fn="match_rms_adamw")

    def step(self, closure: None = None) -> None:
        """Update every parameter that has a gradient."""
        for parameter, matrix in zip(self.parameters, self.matrices, strict=True):
            matrix.grad = None if parameter.grad is None else parameter.grad.flatten(1)
        super().step(closure)


def load_average(module: nn.Module, folder: Path) -> int:
    """Put the averaged weights of a running or finished training into `module`; return the number of its updates."""
    state = torch.load(folder / "state.pt", weights_only=True)
    module.load_state_dict(state["module"])
    ema = EMAModel(module.parameters())
    ema.load_state_dict(state["ema"])
    ema.copy_to(module.parameters())
    module.eval()
    return state["step"]


def save_atomically(state: dict, path: Path) -> None:
    """Write a state so that a kill leaves either the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
