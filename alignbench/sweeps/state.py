"""How a cell of a sweep stands: a small file that whoever runs the cell writes, and any shell reads.

The process that runs a cell touches its file every few seconds, so that one which ended without a word, as by SIGKILL
or with its machine, is known by the age of the file.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field

from alignbench.errors import RunInUseError, UserError
from alignbench.files import CHECK, is_intact, locked, with_check, without_check, write_json
from alignbench.reading import check_record, read_json_object
from alignbench.store.training_lock import Holder
from alignbench.sweeps.record import FOLDER, Cell, StoredCount, Sweep

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Standing = Literal["waiting", "running", "done", "failed", "pre-empted"]
STANDINGS = get_args(Standing)
BEAT_SECONDS = 15.0
LOST_SECONDS = 120.0  # without a beat, after which the process of a cell counts as gone
LOST = "its process ended without a word; the machine may have run out of memory, or have been switched off"
REMEDY = "delete it; the next command of the sweep starts the cell again"


@dataclass(frozen=True)
class State:
    """How a cell stands.

    Attributes:
        standing: `waiting` in a queue; `pre-empted`: stopped by a signal with what was done kept, and goes on when it
            is started again.
        since: when that began, seconds since 1970.
        seconds: that earlier attempts ran.
        devices: processes of the cell, each with a device.
        attempts: how often it was started.
        first_update: the update that this attempt went on from.
        job: its number in a queue; None outside.
        reason: why it failed or was stopped, in a sentence.
        holder: the process that runs it.
    """

    standing: Standing = "waiting"
    since: Seconds = 0.0
    seconds: Seconds = 0.0
    devices: Annotated[StoredCount, Field(ge=1)] = 1
    attempts: StoredCount = 0
    first_update: StoredCount = 0
    job: str | None = None
    reason: str | None = None
    holder: dict[str, Any] = field(default_factory=dict)

    @property
    def ran(self) -> float:
        """How many seconds all attempts took until now."""
        return self.seconds + (max(0.0, time.time() - self.since) if self.standing == "running" else 0.0)

    def ended(self, standing: Standing, reason: str | None = None) -> Self:
        """Return the state after the attempt that runs now."""
        return replace(self, standing=standing, seconds=self.ran, since=time.time(), reason=reason)


@dataclass(frozen=True)
class CellFiles:
    """The files of one cell: its state and what it printed.

    Attributes:
        results: the results folder.
        sweep, cell: which.
    """

    results: Path
    sweep: Sweep
    cell: Cell

    @property
    def folder(self) -> Path:
        return self.results / FOLDER / self.sweep.name

    @property
    def state_file(self) -> Path:
        return self.folder / f"{self.cell.slug}.json"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.cell.slug}.log"

    @property
    def last_checkpoint(self) -> int:
        """The update of the last checkpoint of its run, which the next attempt goes on from; 0 if there is none."""
        from alignbench.store.checkpoint_files import checkpoint_steps

        steps = checkpoint_steps(self.results / self.cell.run / "checkpoints") if self.cell.run else []
        return steps[-1] if steps else 0

    def read(self) -> State:
        """Return how the cell stands. If its process is known to be gone, or its file is damaged, it has failed."""
        try:
            age = time.time() - self.state_file.stat().st_mtime
            found = self._stored()
        except FileNotFoundError:
            return State()
        except UserError as error:
            return State("failed", reason=str(error))
        if found.standing == "running" and (age > LOST_SECONDS or _is_gone(found.holder)):
            return replace(found, standing="failed", seconds=max(0.0, found.ran - age), reason=LOST)
        return found

    def _stored(self) -> State:
        values = read_json_object(self.state_file, REMEDY)
        if CHECK not in values or not is_intact(values):
            raise UserError(f"{self.state_file} has changed since it was written; {REMEDY}")
        values = without_check(values)
        check_record(State, values, str(self.state_file), REMEDY)
        return State(**values)

    def write(self, state: State) -> None:
        write_json(self.state_file, with_check(asdict(state)))

    def queue(self, job: str) -> None:
        """Note the number of a cell's job, unless the job has begun already."""
        with self._locked():
            before = self.read()
            if not (before.standing == "running" or before.job == job):
                self.write(replace(before, standing="waiting", since=time.time(), job=job, reason=None))

    def fail(self, job: str | None, reason: str, standing: Standing = "failed") -> None:
        """Note why a cell ended whose own process could not say it.

        Args:
            job: the number of the job that has ended; a cell that another job or command has by now is left to that.
        """
        with self._locked():
            before = self.read()
            is_anothers = before.standing in ("waiting", "running") and before.job != job
            is_free = before.standing == "waiting" and before.job is None
            if is_free or not is_anothers:
                self.write(before.ended(standing, reason))

    def begin(self, job: str | None, devices: int) -> State:
        """Claim the cell for this process.

        Args:
            job: its number in a queue; None outside.
            devices: processes of the cell.

        Raises:
            RunInUseError: another process runs it.
        """
        with self._locked():
            before = self.read()
            if before.standing == "running" and (before.job is None or before.job != job):
                raise RunInUseError(f"{self.cell.name} is being run by another command, as {self.state_file} says")
            state = State(
                "running", time.time(), before.ran, devices, before.attempts + 1, self.last_checkpoint, job,
                holder=asdict(Holder.of_this_process()),
            )  # fmt: skip
            self.write(state)
        return state

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with locked(self.folder / ".lock"):
            yield

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Touch the state file again and again, so that others see that this process is alive."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(BEAT_SECONDS):
                with suppress(OSError):  # the file system may answer at the next beat
                    os.utime(self.state_file)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def _is_gone(holder: dict[str, Any]) -> bool:
    try:
        return Holder.of_json(holder, "holder").is_gone(Holder.of_this_process())
    except UserError:  # of another version
        return False
