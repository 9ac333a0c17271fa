"""A small sweep, and programs in place of its cells, for tests of who runs them and of what is said."""

import sys
from pathlib import Path

from alignbench.sweeps import run_cell
from alignbench.sweeps.launchers.order import Order
from alignbench.sweeps.ownership import signature
from alignbench.sweeps.record import Cell, Sweep, cells_of
from alignbench.sweeps.state import CellFiles


def small_sweep(programs, base=None, launcher="joblib"):
    """Return a sweep whose cells are texts of Python programs; `run_programs` lets them run."""
    cells = cells_of([(f"seed={n}", [program], f"run{n}", 10) for n, program in enumerate(programs)])
    bases = [] if base is None else [Cell("base of a model", "base-0", [base], "base", 0, is_base=True)]
    command, here = ["-m", "seed=0,1"], str(Path.cwd())
    return Sweep("small", command, launcher, here, "2026-01-31 18:05", [*bases, *cells], signature(command, here))


def run_programs(monkeypatch):
    """Let the word of a cell be a program, where it would be a word of `python -m alignbench`."""
    monkeypatch.setattr(run_cell, "_command", lambda cell, processes: [sys.executable, "-c", cell.words[0]])


def states(results, sweep):
    return [CellFiles(results, sweep, cell).read() for cell in sweep.cells]


def order(results, sweep, then, first=(), stopped=lambda: False, told=None):
    """Return an order of cells; what is told goes to the list `told`."""
    tell = (lambda line: None) if told is None else told.append
    return Order(results, sweep, list(first), list(then), stopped, tell)
