"""What results say of where they come from: packages and commit."""

import subprocess
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
