"""What a command prints in the end, and as a text that the same command can print again."""

import io
import textwrap
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.text import Text

from alignbench.report.tables import Tables
from alignbench.report.terminal.run_tables import print_run
from alignbench.store.run_folder import RunFolder


def print_results(folder: RunFolder, tables: Tables, pictures: Iterable[Path], python: str, console: Console) -> str:
    """Print what a run achieved, where its pictures are and how its policy is loaded; return it as text.

    Args:
        python: lines that load the policy; empty where nothing was trained.
    """
    recorded = Console(file=io.StringIO(), width=console.width, record=True, force_jupyter=False)
    for one in (console, recorded):
        print_run(folder, tables, one)
        for picture in pictures:
            one.print(Text(f"     picture  {picture}"), soft_wrap=True)
        if python:
            one.print("    in Python, with diffusers:")
            one.print(Text(textwrap.indent(python, " " * 14)), soft_wrap=True)
    return recorded.export_text()
