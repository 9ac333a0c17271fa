"""What a reader of outside input is to the fuzzer."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Reader:
    """A reader, and a file that it reads.

    Attributes:
        make: writes valid files into an empty folder.
        file: the one of them that is changed.
        read: reads it, given the folder.
    """

    name: str
    file: str
    make: Callable[[Path], Any]
    read: Callable[[Path], Any]
