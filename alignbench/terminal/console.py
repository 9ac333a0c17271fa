"""The console that a program prints to: what it is given is text, whatever brackets and colons a prompt has in it."""

import sys
import textwrap

from rich.console import Console
from rich.text import Text

FILE_WIDTH = 110  # of lines that are kept in a file, of which nothing is cut
FACT_INDENT = 14  # of what is said of a named fact


def open_console(quiet: bool = False, file_width: int = FILE_WIDTH) -> Console:
    """Return the console of this process. `[red]` and `:cat:` are printed as they are.

    In a notebook it prints lines as `print` does, where rich would show each in a block of its own.

    Args:
        quiet: print nothing, as processes other than the main one do.
        file_width: width of lines where nobody looks at a terminal.
    """
    width = None if sys.stdout.isatty() else file_width
    return Console(quiet=quiet, highlight=False, markup=False, emoji=False, width=width, force_jupyter=False)


def headed(head: str, rest: str) -> Text:
    """Return a line whose beginning is bold."""
    return Text.assemble((head, "bold"), f"  {rest}")


def print_fact(console: Console, name: str, told: str) -> None:
    """Print a named fact; where it needs several lines, all begin in one column. Words are never cut."""
    first = f"  {name}".ljust(FACT_INDENT)
    lines = textwrap.wrap(
        told,
        max(console.width, 2 * FACT_INDENT),
        initial_indent=first,
        subsequent_indent=" " * FACT_INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )
    console.print(Text("\n".join(lines)), soft_wrap=True)
