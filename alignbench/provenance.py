"""What results say of where they come from: packages, commit, device."""

import platform
import subprocess
from pathlib import Path

import torch

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "peft", "numpy")


def commit() -> str | None:
    """Return the commit of the clone this program runs from; None where it is no clone, or git is not installed."""
    here = Path(__file__).resolve().parent
    try:
        found = subprocess.run(["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return found.stdout.strip() or None


def device_name(device: torch.device) -> str:
    """Return what a reader of results would call the device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
