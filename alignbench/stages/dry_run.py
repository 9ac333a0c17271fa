"""What training would take of a device's memory, without training."""

import torch
from omegaconf import DictConfig

from alignbench.configuration.build import run_name
from alignbench.devices import free_memory
from alignbench.terminal.waiting import waiting
from alignbench.training.memory_estimate import table


def dry_run(cfg: DictConfig) -> None:
    """Print what training by `cfg` would take of a device's memory; nothing is loaded or written.

    Raises:
        UserError: if the architecture is neither here nor on the hub.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{run_name(cfg)}, {cfg.train.tuning} tuning, micro-batches of {cfg.train.micro_batch_size}", flush=True)
    with waiting("estimating the memory, and what would save some"):
        told = table(cfg, free_memory(device) if device.type == "cuda" else None)
    print(told)
