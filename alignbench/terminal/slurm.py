"""Ask Slurm about jobs, and put a job back into its queue."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence

TIME_LIMIT = 60.0  # seconds for Slurm to answer
UNENDED = {"PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "COMPLETING", "REQUEUED", "RESIZING", "STOPPED",
           "SIGNALING", "STAGE_OUT", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "UNKNOWN"}  # fmt: skip


def job_id(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the number of the Slurm job that this process belongs to; None outside Slurm."""
    return environment.get("SLURM_JOB_ID")


def requeue(job: str) -> str | None:
    """Ask Slurm to end a job and start it again later; return why it does not, or None if it does."""
    try:
        done = subprocess.run(
            ["scontrol", "requeue", job], capture_output=True, text=True, timeout=TIME_LIMIT, check=False
        )
    except FileNotFoundError:
        return "there is no scontrol on this machine"
    except subprocess.TimeoutExpired:
        return "scontrol did not answer"
    if done.returncode == 0:
        return None
    return " ".join((done.stderr or done.stdout).split()) or f"scontrol ended with status {done.returncode}"


def is_running(job: str) -> bool:
    """Say whether Slurm runs a job, or preempts it now, and has not been asked to end it, as by scancel."""
    return standings([job]).get(job, ("", ""))[0] in ("RUNNING", "SIGNALING")


def standings(jobs: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return how jobs stand that Slurm knows, and why those that wait do: `("PENDING", "Resources")`.

    All jobs stand as `UNKNOWN` while Slurm does not answer.
    """
    if not jobs or shutil.which("squeue") is None:
        return {}
    arrays = sorted({job.partition("_")[0] for job in jobs})
    command = ["squeue", "--noheader", "--array", "--states=all", f"--jobs={','.join(arrays)}", "--format=%i|%T|%r"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return dict.fromkeys(jobs, ("UNKNOWN", ""))
    if done.returncode and "Invalid job id" not in done.stderr:
        return dict.fromkeys(jobs, ("UNKNOWN", ""))
    rows = [line.strip().split("|", 2) for line in done.stdout.splitlines() if line.count("|") >= 2]
    return {job: (standing, why) for job, standing, why in rows}


def rename(job: str, name: str) -> None:
    """Give a job a name that the queue shows. Nothing depends on it, so a refusal is passed over."""
    subprocess.run(
        ["scontrol", "update", f"JobId={job}", f"JobName={name}"], capture_output=True, timeout=TIME_LIMIT, check=False
    )
