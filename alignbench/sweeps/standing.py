"""How far a sweep has come: a row for each cell, read from the results folder alone."""

from dataclasses import dataclass
from pathlib import Path

from alignbench.errors import UserError
from alignbench.reading import parse_json, read_json_object
from alignbench.sweeps.record import Cell, Sweep
from alignbench.sweeps.state import STANDINGS, CellFiles, Standing, State
from alignbench.text import duration

TAIL_BYTES = 4096  # of a training log, which holds its last line


@dataclass(frozen=True)
class Row:
    """How a cell stands.

    Attributes:
        step: how far it has come, in words.
        left: seconds that its training needs; None where that is not known.
    """

    cell: Cell
    standing: Standing
    state: State
    step: str
    left: float | None
    log: Path | None

    @property
    def device_hours(self) -> float:
        """What all its attempts cost: hours times devices."""
        return self.state.ran * self.state.devices / 3600


def standing_of(results: Path, sweep: Sweep) -> list[Row]:
    """Return a row for each cell of a sweep."""
    return [_row(CellFiles(results, sweep, cell)) for cell in sweep.cells]


def _row(files: CellFiles) -> Row:
    state = files.read()
    log = files.log if files.log.exists() else None
    update, step = _progress(files)
    left = None
    if state.standing == "running" and update > state.first_update and update < files.cell.updates:
        pace = (state.ran - state.seconds) / (update - state.first_update)
        left = pace * (files.cell.updates - update)
    return Row(files.cell, state.standing, state, step if state.attempts else "", left, log)


def _progress(files: CellFiles) -> tuple[int, str]:
    """Return the update that the training of a cell has reached, and its step in words."""
    if not files.cell.run:
        return 0, ""
    folder = files.results / files.cell.run
    update = _last_update(folder / "train.jsonl") if files.cell.updates else 0
    done = _completed(folder / "manifest.json")
    for stage in ("score", "generate"):
        if stage in done:
            return update, f"{stage}d"
    if files.cell.updates and "train" not in done:
        return update, f"train {update}/{files.cell.updates}" if update else "start"
    if num := sum(1 for _ in folder.glob("images/*/*/*.png")):
        return update, f"images {num}"
    return update, "trained" if "train" in done else "start"


def _last_update(log: Path) -> int:
    """Return the update of the last whole line of a training log; 0 where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL_BYTES))
            lines = file.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return 0
    try:
        found = parse_json(lines[-1], str(log)).get("step") if lines else 0
    except (UserError, AttributeError):  # longer than what was read, or damaged, which the report names
        return 0
    return found if isinstance(found, int) else 0


def _completed(manifest: Path) -> set[str]:
    """Return the stages of which a run has done something; none where its manifest cannot be read."""
    try:
        found = read_json_object(manifest).get("completed")
    except UserError:  # damaged, which the report names
        return set()
    return set(found) if isinstance(found, dict) else set()


def seconds_left(rows: list[Row]) -> float | None:
    """Return about how long a sweep still takes, over all cells that run side by side; None where that is not known.

    A cell that waits is expected to take what those that are done took on average.
    """
    done = [row.state.seconds for row in rows if row.standing == "done" and row.state.attempts]
    mean = sum(done) / len(done) if done else None
    running = [row for row in rows if row.standing == "running"]
    waiting = sum(row.standing in ("waiting", "pre-empted") for row in rows)
    known = [left for row in running if (left := _expected(row, mean)) is not None]
    if len(known) < len(running) or (waiting and mean is None) or not running:
        return None
    return max([*known, (sum(known) + waiting * (mean or 0.0)) / len(running)])


def _expected(row: Row, mean: float | None) -> float | None:
    """Return the seconds that a running cell still takes; None for one that takes longer than those before it."""
    if row.left is None and mean is not None and row.state.ran < mean:
        return mean - row.state.ran
    return row.left


def summary(rows: list[Row]) -> str:
    """Return one line on a sweep: how many cells stand how, and about how long it still takes."""
    counts = {standing: sum(row.standing == standing for row in rows) for standing in STANDINGS}
    told = [f"{counts.pop('done')} of {len(rows)} done"]
    told += [f"{number} {standing}" for standing, number in counts.items() if number]
    left = seconds_left(rows)
    return ", ".join(told) + ("" if left is None else f"; about {duration(left)} left")
