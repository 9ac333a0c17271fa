"""Run cells as tasks of Ray, on this machine or on a cluster of Ray: `hydra/launcher=ray`."""

import logging
from collections.abc import Iterator
from typing import Any

from alignbench.settings.launchers import OfRay
from alignbench.sweeps.launchers.order import Order
from alignbench.sweeps.run_cell import run_cell
from alignbench.sweeps.state import LOST

POLL_SECONDS = 1.0


def run(order: Order, settings: OfRay) -> Iterator[int]:
    """Run the cells of an order; yield the number of each that has ended."""
    import ray  # pyright: ignore[reportMissingImports] an extra of its own, which tests do not install

    ray.init(settings.address, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    task: Any = ray.remote(_cell).options(num_cpus=settings.num_cpus, num_gpus=settings.num_gpus, max_retries=0)
    results, sweep = order.results, order.sweep
    try:
        for numbers in (order.first, order.then):
            left = {}
            for number in numbers if not order.stopped() else ():
                left[task.remote(results, sweep, number, settings.processes)] = number
                order.tell_of(number, "submitted")
            is_told = False
            while left:
                ended, _ = ray.wait(list(left), timeout=POLL_SECONDS)
                for one in ended:
                    number = left.pop(one)
                    try:
                        ray.get(one)
                    except ray.exceptions.RayError:  # its process ended, or it was cancelled
                        if (files := order.files(number)).read().standing == "running":
                            files.fail(None, LOST)
                    yield number
                if order.stopped() and not is_told:
                    for one in left:
                        ray.cancel(one)  # raises KeyboardInterrupt in a cell that runs
                    is_told = True
    finally:
        ray.shutdown()


def _cell(*arguments: object) -> None:
    results, sweep, number, processes = arguments
    run_cell(results, sweep, number, processes, lambda: False)  # pyright: ignore[reportArgumentType]
