"""Run cells as jobs of submitit on this machine, `n_jobs` at a time: `hydra/launcher=submitit_local`."""

import signal
import time
from collections.abc import Iterator
from typing import Any

from alignbench.settings.launchers import OfSubmititLocal
from alignbench.sweeps.launchers.order import Order
from alignbench.sweeps.launchers.submitted import FOLDER, SubmittedCell
from alignbench.sweeps.launchers.this_machine import device_groups
from alignbench.sweeps.state import LOST

POLL_SECONDS = 0.5


def run(order: Order, settings: OfSubmititLocal) -> Iterator[int]:
    """Run the cells of an order; yield the number of each that has ended."""
    groups = device_groups(settings)
    num_jobs = settings.n_jobs or max(1, len(groups))
    free = [groups[number % len(groups)] if groups else [] for number in range(num_jobs)]
    for numbers in (order.first, order.then):
        waiting, running = list(numbers), {}
        is_told = False
        while waiting or running:
            while waiting and free and not order.stopped():
                number, devices = waiting.pop(0), free.pop(0)
                running[number] = _submit(order, settings, number, devices), devices
            if order.stopped():
                waiting.clear()
                for job, _ in running.values() if not is_told else ():
                    job._process.send_signal(signal.SIGTERM)  # its controller passes it on
                is_told = True
            for number in [number for number, (job, _) in running.items() if job.done()]:
                job, devices = running.pop(number)
                free.append(devices)
                if (files := order.files(number)).read().standing in ("waiting", "running"):
                    files.fail(job.job_id, LOST)
                yield number
            time.sleep(POLL_SECONDS)


def _submit(order: Order, settings: OfSubmititLocal, number: int, devices: list[str]) -> Any:
    from submitit import LocalExecutor

    executor = LocalExecutor(order.results / FOLDER / "%j", max_num_timeout=settings.max_num_timeout)
    executor.update_parameters(
        timeout_min=settings.timeout_min,
        signal_delay_s=settings.signal_delay_s,
        gpus_per_node=len(devices),
        visible_gpus=[int(device) for device in devices],
    )
    job = executor.submit(SubmittedCell(order.results, order.sweep, settings.processes), number)
    order.files(number).queue(job.job_id)
    order.tell_of(number, f"job {job.job_id}")
    return job
