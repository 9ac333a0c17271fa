"""The console that a program prints to: what it is given is text, whatever brackets and colons a prompt has in it."""

import sys

from rich.console import Console
from rich.text import Text

FILE_WIDTH = 110  # of lines that are kept in a file, of which nothing is cut


def open_console(quiet: bool = False, file_width: int = FILE_WIDTH) -> Console:
    """Return the console of this process. `[red]` and `:cat:` are printed as they are.

    Args:
        quiet: print nothing, as processes other than the main one do.
        file_width: width of lines where nobody looks at a terminal.
    """
    width = None if sys.stdout.isatty() else file_width
    return Console(quiet=quiet, highlight=False, markup=False, emoji=False, width=width)


def headed(head: str, rest: str) -> Text:
    """Return a line whose beginning is bold."""
    return Text.assemble((head, "bold"), f"  {rest}")
