"""The program as at the terminal, but within the process of the test, which has loaded its libraries already."""

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

from alignbench import cli

# What makes a command of a miniature end within seconds; four images a run.
SMALL_RUN = (
    "train.max_train_steps=2", "train.total_batch_size=4", "train.micro_batch_size=4", "data.num_pairs=12",
    "data.num_prompts=12", "prompts.limit=4", "sampling.num_inference_steps=2",
)  # fmt: skip


def alignbench(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run `python -m alignbench` with arguments; see `run_main`."""
    return run_main(cli.main, *arguments, check=check)


def run_main(main: Callable[[], None], *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the main function of a program with arguments; return its exit status and what it printed.

    Raises:
        AssertionError: it failed, and `check` is set.
    """
    with (
        patch.object(sys, "argv", ["alignbench", *arguments]),
        redirect_stdout(io.StringIO()) as stdout,
        redirect_stderr(io.StringIO()) as stderr,
    ):
        try:
            main()
            status = 0
        except SystemExit as stopped:
            status = int(stopped.code or 0)
    done = subprocess.CompletedProcess([*arguments], status, stdout.getvalue(), stderr.getvalue())
    assert not check or status == 0, done.stderr[-4000:]
    return done


def rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a csv file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def manifests(root: Path) -> dict[str, dict]:
    """Return the manifest of each run under a results folder, by the name of its folder."""
    return {file.parent.name: json.loads(file.read_text()) for file in root.glob("*/manifest.json")}
