"""What a launcher is asked to run, and what it says of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from alignbench.sweeps.record import Sweep
from alignbench.sweeps.state import CellFiles


@dataclass(frozen=True)
class Order:
    """Cells that are to be run.

    Attributes:
        results: the results folder, absolute.
        first: numbers of the base cells, which end before the others start.
        then: numbers of the others.
        stopped: whether a signal has asked the command to end.
        tell: prints a line.
    """

    results: Path
    sweep: Sweep
    first: list[int]
    then: list[int]
    stopped: Callable[[], bool]
    tell: Callable[[str], None]

    def files(self, number: int) -> CellFiles:
        return CellFiles(self.results, self.sweep, self.sweep.cells[number])

    def tell_of(self, number: int, event: str) -> None:
        """Print what happens to a cell, and where its log is."""
        files = self.files(number)
        self.tell(f"  {event:<11} {files.cell.name}  {files.log}")
