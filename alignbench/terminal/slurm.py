"""Put a job of Slurm back into its queue."""

import os
import subprocess
from collections.abc import Mapping

TIME_LIMIT = 60.0  # seconds for Slurm to answer


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
