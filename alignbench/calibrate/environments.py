"""Isolated environments of the official packages, which cannot be installed beside alignbench."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from alignbench.errors import UserError
from alignbench.files import write_text


@dataclass(frozen=True)
class Requirements:
    """What an environment holds besides our own version of torch.

    Attributes:
        resolved: requirements that bring their dependencies along.
        alone: requirements whose own pins cannot be met, installed without dependencies.
    """

    resolved: Sequence[str]
    alone: Sequence[str]


def environment(folder: Path, requirements: Requirements) -> Path:
    """Return the Python of the environment in `folder`, built by uv unless it is there already; about 5 GB.

    UV_TORCH_BACKEND=cpu makes uv take the smaller build of torch where its index can be reached.

    Raises:
        UserError: uv is missing, or cannot install the packages.
    """
    folder = folder.resolve()
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    # the same kernels on both sides
    resolved = [f"torch=={version('torch').partition('+')[0]}", *requirements.resolved]
    listing, complete = "\n".join([*resolved, *requirements.alone]), folder / "requirements.txt"
    if complete.exists() and complete.read_text(encoding="utf-8") == listing:
        return python
    uv = shutil.which("uv")
    if uv is None:
        raise UserError("uv is not installed, and official packages need an environment of their own; pip install uv")
    install = [uv, "pip", "install", "--python", str(python)]
    for command in (
        [uv, "venv", "--clear", "--python", sys.executable, str(folder)],
        [*install, *resolved],
        [*install, "--no-deps", *requirements.alone],
    ):
        # elsewhere: inside this repository uv would hold the packages to the versions alignbench is tested with
        if subprocess.run(command, cwd=tempfile.gettempdir(), check=False).returncode:
            raise UserError(f"`{' '.join(command)}` failed; the lines above say why")
    write_text(complete, listing)
    return python
