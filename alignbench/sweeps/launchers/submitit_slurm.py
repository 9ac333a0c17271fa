"""Run cells as jobs of Slurm, by submitit: `hydra/launcher=submitit_slurm`.

The jobs outlive the command. Repeated, it finds those that are in the queue and waits for them. How a job stands is
asked of `squeue`, which needs no accounting.
"""

import re
import shutil
import time
from collections.abc import Iterator, Sequence

from alignbench.errors import UserError
from alignbench.settings.launchers import OfSubmititSlurm
from alignbench.sweeps.launchers.order import Order
from alignbench.sweeps.launchers.submitted import FOLDER, SubmittedCell
from alignbench.terminal import slurm

POLL_SECONDS = 2.0
SETTLE_SECONDS = 5.0  # in which a shared file system shows what a job wrote last
RESUMED = ("PREEMPTED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL")  # after which a cell goes on if it is started again


def run(order: Order, settings: OfSubmititSlurm) -> Iterator[int]:
    """Submit the cells of an order that are not in the queue; yield the number of each that has ended."""
    if shutil.which("sbatch") is None:
        raise UserError("hydra/launcher=submitit_slurm needs Slurm, and there is no sbatch on this machine")
    known = slurm.standings([job for number in (*order.first, *order.then) if (job := order.files(number).read().job)])
    jobs = {
        number: job
        for number in (*order.first, *order.then)
        if (job := order.files(number).read().job) and known.get(job, ("",))[0] in slurm.UNENDED
    }
    for number, job in jobs.items():
        order.tell_of(number, f"job {job}")
    jobs |= _submit(order, settings, [number for number in order.first if number not in jobs], ())
    bases = [jobs[number] for number in order.first]
    jobs |= _submit(order, settings, [number for number in order.then if number not in jobs], bases)
    told: set[int] = set()
    while jobs and not order.stopped():
        time.sleep(POLL_SECONDS)
        found = slurm.standings(list(jobs.values()))
        for number, job in list(jobs.items()):
            standing, why = found.get(job, ("", ""))
            if "held" in why.lower() and number not in told:
                order.tell(f"  Slurm holds job {job} back ({why}); scontrol release {job} lets it run")
                told.add(number)
            state = order.files(number).read()
            if state.standing not in ("done", "failed") and standing not in slurm.UNENDED:
                time.sleep(SETTLE_SECONDS)
                _settle(order, number, job, standing)
                state = order.files(number).read()
                if state.standing in ("waiting", "running") and state.job not in (None, job):
                    jobs[number] = state.job  # another command has submitted it as well
                    continue
            elif state.standing not in ("done", "failed"):
                continue
            del jobs[number]
            yield number
    if jobs:
        first = sorted({job.partition("_")[0] for job in jobs.values()})
        order.tell(f"  {len(jobs)} jobs stay in Slurm's queue; scancel {' '.join(first)} ends them")


def _settle(order: Order, number: int, job: str, standing: str) -> None:
    """Note of a job that Slurm has ended what its cell could not note."""
    files = order.files(number)
    state = files.read()
    if state.standing in ("done", "failed"):
        return
    told = f"Slurm ended job {job} ({standing or 'it is no longer known'})"
    goes_on = standing in RESUMED or (state.standing == "pre-empted" and standing != "CANCELLED")
    files.fail(job, told, "pre-empted" if goes_on else "failed")


def _submit(order: Order, settings: OfSubmititSlurm, numbers: Sequence[int], after: Sequence[str]) -> dict[int, str]:
    """Submit cells as an array of jobs, each named by its cell; return their numbers in the queue.

    Args:
        after: jobs that must have ended before.
    """
    if not numbers:
        return {}
    from submitit import AutoExecutor
    from submitit.core.utils import FailedJobError

    values = settings.model_dump()
    processes = values.pop("processes") or settings.gpus_per_node or 1
    general = ("timeout_min", "mem_gb", "gpus_per_node", "cpus_per_task")
    parameters = {name if name in general else f"slurm_{name}": value for name, value in values.items() if value}
    parameters.pop("slurm_max_num_timeout", None)
    if after:
        parameters["slurm_dependency"] = f"afterany:{':'.join(after)}"
    executor = AutoExecutor(
        order.results / FOLDER / "%j", cluster="slurm", slurm_max_num_timeout=settings.max_num_timeout
    )
    try:
        executor.update_parameters(name=order.sweep.name, nodes=1, tasks_per_node=1, **parameters)
        submitted = executor.map_array(SubmittedCell(order.results, order.sweep, processes), numbers)
    except FailedJobError as error:
        lines = [line for line in str(error).splitlines() if re.search(r"sbatch: error|error:", line)]
        reason = (lines or str(error).splitlines())[-1].strip()
        raise UserError(f"Slurm does not take the jobs of this sweep: {reason}") from None
    jobs = {number: job.job_id for number, job in zip(numbers, submitted, strict=True)}
    for number, job in jobs.items():
        slurm.rename(job, order.sweep.cells[number].slug)
        order.files(number).queue(job)
        order.tell_of(number, f"job {job}")
    return jobs
