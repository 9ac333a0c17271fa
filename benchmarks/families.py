"""Train two updates of every method on a tiny random pipeline of every family, alone and in shards; print what failed.

    python -m benchmarks.families                          # all
    python -m benchmarks.families --only nft sana z_image  # one method on two families
    python -m benchmarks.families --processes 2            # in shards alone

- One process trains all weights. Losses have to be finite, and weights have to move.
- Two processes over gloo train adapters in shards of FSDP2, under gradient checkpointing, and so does one process. What
  both add to the weights has to be the same: after one update to 1e-5 of its norm, as is promised, after two to 1e-3.

Each training runs in a forked process, so that libraries are loaded and pipelines are made once. Steps are those of
SGD: AdamW would divide each gradient by its size, so that of a tiny one is mostly rounding.

Exit status 1: something was not as promised.
"""

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from torch import Tensor

from alignbench.configuration.build import build
from alignbench.configuration.compose import composed
from alignbench.method import Method
from alignbench.models.adapter import ModelAdapter
from alignbench.models.find_families import FAMILIES
from alignbench.models.tiny_random import tiny_adapter
from alignbench.store.run_folder import RunFolder
from alignbench.training.train import train
from tests.processes import FSDP2, together
from tests.tiny_runs import METHODS, RandomPairs, log_of, settings, shortened

NUM_UPDATES = 2
TOLERANCE = 1e-5  # of the norm of one update
# of two: inversions by random networks and images of 8 bits a channel make more of the rounding in the first
TOLERANCE_OF_TWO = 1e-3
# presets, which have a mark, only set what a method has
OWN_METHODS = [one.values[0] for one in METHODS if not one.marks]
# whether a model is one of flow matching, and the miniature whose recipes methods have on such models
MINIATURES = {False: "sd15_mini", True: "sd3_mini"}
ADAPTERS = {"tuning": "lora", "lora_rank": 2, "lora_alpha": 2, "gradient_checkpointing": True}


@dataclass(frozen=True)
class Combination:
    """A method with few steps of whatever it walks, on the tiny pipeline of a family.

    Attributes:
        folder: for runs, and for the features of prompts and images, which all of them share.
    """

    method: Method
    model: ModelAdapter
    folder: Path

    def train(self, num_processes: int, num_updates: int = NUM_UPDATES, **changes: Any) -> Path:
        """Train in forked processes, which leave this object as it is; return the folder of the run.

        Raises:
            AssertionError: with the traceback of a process that failed.
        """
        run = Path(tempfile.mkdtemp(dir=self.folder))

        def one(rank: int) -> None:
            sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 the process ends with it
            few = {"max_train_steps": num_updates, "total_batch_size": 4, "micro_batch_size": 2}
            cfg = settings(**few, learning_rate=1e-4, max_grad_norm=1e9, **changes)
            cfg.train.optimizer = OmegaConf.create({"_target_": "torch.optim.SGD", "_partial_": True})
            train(cfg, self.model, self.method, RandomPairs(), RunFolder(run), Accelerator(cpu=True))

        together(one, num_processes=num_processes, environment=FSDP2)
        return run

    def in_one_process(self) -> list[str]:
        """Train all weights; return what is wrong then."""
        run = self.train(1, tuning="full")
        start = self.model.denoiser.state_dict()
        moved = [trained - start[name] for name, trained in weights(run).items()]
        return [*wrong_losses(run), *wrong_change(torch.cat([one.flatten() for one in moved]))]

    def in_two_processes(self) -> list[str]:
        """Train adapters in shards and in one process; return what is wrong then."""
        alone, shards = (self.train(num_processes, **ADAPTERS) for num_processes in (1, 2))
        wrong = [*wrong_losses(shards), *wrong_change(added_by_adapters(weights(shards)))]
        apart = distance(alone, shards)
        if wrong or apart < TOLERANCE:
            return wrong
        told = [] if apart < TOLERANCE_OF_TWO else [f"two updates differ from one process's by {apart:.1e}"]
        first = distance(*(self.train(num_processes, 1, **ADAPTERS) for num_processes in (1, 2)))
        return told if first < TOLERANCE else [f"one update differs from one process's by {first:.1e}", *told]


def distance(one: Path, other: Path) -> float:
    """Return how far apart two runs of adapters ended, as a share of what the first added to the weights."""
    first, second = (added_by_adapters(weights(run)) for run in (one, other))
    return float((second - first).norm() / first.norm())


def weights(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of the policy that a run left."""
    (file,) = RunFolder(folder).policy.rglob("*.safetensors")
    return load_file(file)


def added_by_adapters(adapters: dict[str, Tensor]) -> Tensor:
    """Return what adapters add to all layers together, as one vector."""
    layers = [name for name in sorted(adapters) if "lora_A" in name]
    return torch.cat([(adapters[name.replace("lora_A", "lora_B")] @ adapters[name]).flatten() for name in layers])


def wrong_losses(folder: Path) -> list[str]:
    """Return what is wrong with the losses that a run logged."""
    losses = [line["loss"] for line in log_of(folder)]
    wrong = [] if len(losses) == NUM_UPDATES else [f"{len(losses)} updates in place of {NUM_UPDATES}"]
    return wrong + [
        f"the loss of update {number} is {loss}" for number, loss in enumerate(losses, 1) if not math.isfinite(loss)
    ]


def wrong_change(change: Tensor) -> list[str]:
    """Return what is wrong with the change of all weights, as one vector."""
    if not change.isfinite().all():
        return ["weights are not finite"]
    return [] if change.any() else ["no weight moved"]


WAYS: dict[int, Callable[[Combination], list[str]]] = {
    1: Combination.in_one_process,
    2: Combination.in_two_processes,
}


def tried(combination: Combination, num_processes: int) -> list[str]:
    """Train a combination in one process or in two; return what is wrong then."""
    try:
        return WAYS[num_processes](combination)
    except AssertionError as error:
        return [str(error).strip().splitlines()[-1]]


def few_steps(name: str, miniature: str) -> Method:
    """Return a method with the recipe for a miniature, but few steps of whatever it walks."""
    return build(shortened(composed([f"method={name}", f"model={miniature}", "reward=shapes_clip"]).method, 2))


def load() -> None:
    """Load once what all trainings need: they run in processes that are forked from this one."""
    torch.set_num_threads(1)
    tiny_adapter("flux").prepare_training("lora", rank=2, alpha=2)  # peft loads the more as it is used


def named(words: Collection[str], names: Collection[str]) -> list[str]:
    """Return those of `names` that are among the words; all where none is."""
    return [name for name in names if name in words] or list(names)


def main() -> None:
    """Do as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*OWN_METHODS, *FAMILIES]
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", choices=names, help="methods and families")
    parser.add_argument("--processes", nargs="+", type=int, default=list(WAYS), choices=WAYS, help="default: 1 2")
    arguments = parser.parse_args()
    load()
    models = {name: tiny_adapter(name) for name in named(arguments.only, FAMILIES)}
    found: dict[tuple[str, str, str], list[str]] = {}
    with tempfile.TemporaryDirectory(prefix="families-") as folder:
        for name in named(arguments.only, OWN_METHODS):
            methods = {world: few_steps(name, miniature) for world, miniature in MINIATURES.items()}
            for (family, model), num_processes in product(models.items(), arguments.processes):
                method = methods[model.schedule.prediction_type == "velocity"]
                wrong = tried(Combination(method, model, Path(folder)), num_processes)
                found[name, family, str(num_processes)] = wrong
                print(f"{name}, {family}, {num_processes}: {'; '.join(wrong) or 'as promised'}", flush=True)
    _print(found)
    sys.exit(1 if any(found.values()) else 0)


def _print(found: dict[tuple[str, str, str], list[str]]) -> None:
    failed = {what: wrong for what, wrong in found.items() if wrong}
    table = Table("method", "family", "processes", "what is wrong")
    for what, wrong in failed.items():
        table.add_row(*what, "; ".join(wrong))
    console = Console(markup=False)
    if failed:
        console.print(table)
    console.print(f"{len(found)} tried, {len(failed)} not as promised")


if __name__ == "__main__":
    main()
