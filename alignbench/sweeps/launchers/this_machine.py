"""Run cells as processes of this machine, `n_jobs` at a time, each with GPUs of its own: `hydra/launcher=joblib`."""

import os
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

from alignbench.errors import UserError
from alignbench.settings.launchers import OfThisMachine
from alignbench.sweeps.launchers.order import Order
from alignbench.sweeps.run_cell import run_cell


def run(order: Order, settings: OfThisMachine) -> Iterator[int]:
    """Run the cells of an order; yield the number of each that has ended."""
    from joblib import Parallel, delayed

    groups = device_groups(settings)
    num_jobs = settings.n_jobs or max(1, len(groups))
    free: SimpleQueue[list[str] | None] = SimpleQueue()
    for number in range(num_jobs):
        free.put(groups[number % len(groups)] if groups else None)

    def one(number: int) -> int:
        if order.stopped():
            return number
        devices = free.get()
        try:
            order.tell_of(number, "started")
            run_cell(order.results, order.sweep, number, settings.processes, order.stopped, devices=devices)
        finally:
            free.put(devices)
        return number

    for numbers in (order.first, order.then):
        # threads: each only waits for the process of its cell, so no cell can take another with it
        pool: Any = Parallel(num_jobs, backend="threading", return_as="generator_unordered", pre_dispatch="n_jobs")
        yield from pool(delayed(one)(number) for number in numbers)


def device_groups(settings: OfThisMachine) -> list[list[str]]:
    """Return the GPUs of this machine in groups of `processes`, as CUDA_VISIBLE_DEVICES names them; none without GPUs.

    Raises:
        UserError: there are fewer GPUs than a cell has processes.
    """
    gpus = visible_gpus()
    groups = [gpus[k : k + settings.processes] for k in range(0, len(gpus), settings.processes)]
    if gpus and len(gpus) < settings.processes:
        raise UserError(
            f"hydra.launcher.processes={settings.processes} needs as many GPUs, and this machine shows {len(gpus)}"
        )
    return [group for group in groups if len(group) == settings.processes]


def visible_gpus() -> list[str]:
    """Return the GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]
