"""What results say of where they come from: packages, commit, command and date."""

import shlex
import subprocess
from datetime import UTC, datetime
from pathlib import Path

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "peft", "numpy")


def commit() -> str | None:
    """Return the commit of the clone this program runs from; None where it is no clone, or git is not installed."""
    here = Path(__file__).resolve().parent
    try:
        found = subprocess.run(["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return found.stdout.strip() or None


def command() -> str | None:
    """Return the command of this job, in a sweep that of the job alone; None where no command line was read."""
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return None
    return shlex.join(["python", "-m", "alignbench", *HydraConfig.get().overrides.task])


def now() -> str:
    """Return the date and the minute, UTC, as in `2026-01-31 18:05`."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M")
