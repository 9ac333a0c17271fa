"""What a terminal shows while something takes seconds and there is nothing to count."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from alignbench.terminal.endings import is_main


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show at a terminal what is going on, and nothing elsewhere. Within, nothing is printed and no bar is shown."""
    if not (is_main() and sys.stderr.isatty()):
        yield
        return
    from rich.console import Console  # not before a command is repeated

    with Console(stderr=True).status(what):
        yield
