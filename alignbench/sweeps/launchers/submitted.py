"""The job that submitit runs for a cell: on this machine, or in the queue of Slurm."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from alignbench.sweeps.record import Sweep
from alignbench.sweeps.run_cell import run_cell
from alignbench.terminal import slurm
from alignbench.terminal.signals import handled, noted

FOLDER = ".submitit"  # of the files of submitit, in the results folder


@dataclass(frozen=True)
class SubmittedCell:
    """What submitit calls in a job, and again after the job was put back into the queue."""

    results: Path
    sweep: Sweep
    processes: int

    def __call__(self, number: int) -> None:
        from submitit import JobEnvironment

        job = JobEnvironment().job_id
        with handled():
            with noted() as found:  # when the cell has ended, submitit puts a job that reaches its limit into the queue
                state = run_cell(
                    self.results, self.sweep, number, self.processes, lambda: found.signum is not None, job
                )
            # submitit passes over SIGTERM, by which Slurm preempts jobs and ends those that were cancelled
            if state.standing == "pre-empted" and slurm.is_running(job):
                slurm.requeue(job)

    def checkpoint(self: Self, *arguments: Any) -> Any:
        """Return what goes on with the cell: the same again, as the run folder holds how far it has come."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, *arguments)
