"""Measure how long training waits for a checkpoint, in the foreground and in the background.

    python benchmarks/checkpoints.py [--gib 1.5] [--rounds 3] [--folder FOLDER]

The state is that of full fine-tuning with AdamW in float32: weights and two averages of each. `waits` is the time that
`save` takes, `stored` the time from its call until the checkpoint is whole. The first round in the background also
takes the main memory for the copy; later rounds use it again. FOLDER should lie on the disk of the results.
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

from alignbench.training.checkpoint import Checkpoints, Counters

WEIGHTS_PER_LAYER = 2048 * 2048
FLOAT32_NUMBERS = 3  # of a weight: itself and the two averages of AdamW


def measure(folder: Path, gib: float, num_rounds: int, in_background: bool) -> Iterator[dict[str, float | str]]:
    """Yield the seconds of each round.

    Args:
        gib: size of the state.
    """
    num_layers = max(1, round(gib * 2**30 / (4 * FLOAT32_NUMBERS * WEIGHTS_PER_LAYER)))
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    network = nn.Sequential(*(nn.Linear(2048, 2048, bias=False) for _ in range(num_layers))).to(accelerator.device)
    optimizer = torch.optim.AdamW(network.parameters())
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    progress = Counters()
    parts = {"optimizer": optimizer}
    with Checkpoints(
        folder, accelerator, progress, {"policy": network}, parts, in_background=in_background
    ) as checkpoints:
        for number in range(1, num_rounds + 1):
            progress.step = number
            began = time.perf_counter()
            checkpoints.save()
            waits = time.perf_counter() - began
            checkpoints.finish()
            stored = time.perf_counter() - began
            size = sum(file.stat().st_size for file in (folder / f"step-{number}").iterdir()) / 2**30
            mode = "background" if in_background else "foreground"
            yield {"mode": mode, "round": number, "gib": size, "waits": waits, "stored": stored}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gib", type=float, default=1.5, help="size of the state")
    parser.add_argument("--rounds", type=int, default=3, help="checkpoints of each mode")
    parser.add_argument("--folder", type=Path, help="where checkpoints are written; removed afterwards")
    options = parser.parse_args()
    for in_background in (False, True):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            for row in measure(Path(folder), options.gib, options.rounds, in_background):
                print(json.dumps({key: round(v, 3) if isinstance(v, float) else v for key, v in row.items()}))


if __name__ == "__main__":
    main()
