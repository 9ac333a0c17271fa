"""Measure how long training waits for a checkpoint, in the foreground and in the background.

    python benchmarks/checkpoints.py [--gib 1.5] [--rounds 3] [--folder FOLDER]

The state is that of full fine-tuning with AdamW in float32: weights and two averages of each. `waits` is the time that
`save` takes, `stored` that until the checkpoint is whole, both in seconds; `waits_cpu` is in seconds of CPU time, which
other programs disturb less. The rows `copy` are the copy to main memory alone; the rest of what training waits for in
the background is the check that all weights are finite. Main memory is taken in the first round and used again. One
core computes. FOLDER should lie on the disk of the results.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from alignbench.training.background_write import MainMemory
from alignbench.training.checkpoint import Checkpoints, Counters

WIDTH = 2048
FLOAT32_NUMBERS = 3  # of a weight: itself and the two averages of AdamW

Row = dict[str, float | str]


def stepped(gib: float, device: torch.device) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return a network and an optimizer that has stepped, which together have a state of a size."""
    num_layers = max(1, round(gib * 2**30 / (4 * FLOAT32_NUMBERS * WIDTH**2)))
    network = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(num_layers))).to(device)
    optimizer = torch.optim.AdamW(network.parameters())
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return network, optimizer


def measure(folder: Path, gib: float, num_rounds: int, in_background: bool) -> Iterator[Row]:
    """Yield the seconds of each checkpoint."""
    accelerator, progress = Accelerator(cpu=not torch.cuda.is_available()), Counters()
    network, optimizer = stepped(gib, accelerator.device)
    of_the_run = accelerator, progress, {"policy": network}, {"optimizer": optimizer}
    with Checkpoints(folder, *of_the_run, in_background=in_background) as checkpoints:
        for number in range(1, num_rounds + 1):
            progress.step = number
            began, spent = time.perf_counter(), time.process_time()
            checkpoints.save()
            waits, spent = time.perf_counter() - began, time.process_time() - spent
            checkpoints.finish()
            stored = time.perf_counter() - began
            mode = "background" if in_background else "foreground"
            yield {"mode": mode, "round": number, "waits": waits, "waits_cpu": spent, "stored": stored}


def measure_copy(gib: float, num_rounds: int) -> Iterator[Row]:
    """Yield the seconds of each copy."""
    device = Accelerator(cpu=not torch.cuda.is_available()).device
    network, optimizer = stepped(gib, device)
    memory = MainMemory(pinned=device.type == "cuda")
    for number in range(1, num_rounds + 1):
        began, spent = time.perf_counter(), time.process_time()
        memory.copy([[parameter.data for parameter in network.parameters()], optimizer.state_dict()])
        waits, spent = time.perf_counter() - began, time.process_time() - spent
        yield {"mode": "copy", "round": number, "waits": waits, "waits_cpu": spent}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gib", type=float, default=1.5, help="size of the state")
    parser.add_argument("--rounds", type=int, default=3, help="checkpoints of each mode")
    parser.add_argument("--folder", type=Path, help="where checkpoints are written; removed afterwards")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [*measure_copy(options.gib, options.rounds)]
    for in_background in (False, True):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            rows += measure(Path(folder), options.gib, options.rounds, in_background)
    for row in rows:
        print(json.dumps({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}))


if __name__ == "__main__":
    main()
