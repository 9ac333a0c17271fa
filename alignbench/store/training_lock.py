"""A lock on training a run: one command at a time writes its checkpoints, its log and its policy.

It is a file that says who holds it, so it works on file systems of many machines and is left by a crash. A holder that
is gone is recognised on its own machine, and by a Slurm job that was put back into the queue. Of others only a person
can know.
"""

import json
import os
import platform
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import psutil

from alignbench.errors import RunInUseError, UserError
from alignbench.files import locked
from alignbench.reading import check_record, parse_json
from alignbench.settings.section import Count
from alignbench.store.origin.provenance import now

CLOCK_SECONDS = 2.0  # by which two readings of the start of one process may differ
EMPTY_SECONDS = 1.0  # a lock that holds nothing for so long was left by a kill


@dataclass(frozen=True)
class Holder:
    """A process that trains a run.

    Attributes:
        host: name of its machine.
        pid: its number there, in `namespace`: containers number their processes themselves.
        since: when it took the lock, UTC.
        process_start: when it was started, seconds since 1970: numbers of processes are used again.
        boot: which start of the machine it belongs to; empty where that is not known.
        machine: which machine that is; empty where that is not known.
        slurm_job, slurm_restarts: the Slurm job, and how often it was put back into the queue; None and 0 outside.
    """

    host: str
    pid: Count
    since: str
    process_start: float
    namespace: str
    boot: str
    machine: str
    slurm_job: str | None
    slurm_restarts: int

    @classmethod
    def of_this_process(cls) -> Self:
        return cls(
            host=platform.node(),
            pid=os.getpid(),
            since=now(),
            process_start=psutil.Process().create_time(),
            namespace=_link("/proc/self/ns/pid"),
            boot=_text("/proc/sys/kernel/random/boot_id"),
            machine=_text("/etc/machine-id"),
            slurm_job=os.environ.get("SLURM_JOB_ID"),
            slurm_restarts=int(os.environ.get("SLURM_RESTART_COUNT", "0")),
        )

    @classmethod
    def of_json(cls, values: Mapping[str, Any], named: str) -> Self:
        """Return the holder that a record names.

        Args:
            named: the record, for the message.

        Raises:
            UserError: it names none.
        """
        check_record(cls, values, named)
        return cls(**values)

    def is_gone(self, seen_by: Self) -> bool:
        """Say whether this process is known to have ended; False where nobody here can know."""
        if self.slurm_job is not None and self.slurm_job == seen_by.slurm_job:
            return self.slurm_restarts < seen_by.slurm_restarts or self._has_ended(seen_by)
        return self._has_ended(seen_by)

    def is_near(self, seen_by: Self) -> bool:
        """Say whether both run on one machine and number processes alike."""
        return (self.host, self.boot, self.namespace) == (seen_by.host, seen_by.boot, seen_by.namespace)

    def _has_ended(self, seen_by: Self) -> bool:
        if not self.is_near(seen_by):  # or the machine was started again
            same_machine = bool(self.machine) and (self.host, self.machine) == (seen_by.host, seen_by.machine)
            return same_machine and self.boot != seen_by.boot
        try:
            return abs(psutil.Process(self.pid).create_time() - self.process_start) > CLOCK_SECONDS
        except psutil.NoSuchProcess:
            return True


def lock_file(folder: Path) -> Path:
    """Return the lock on training what lies in `folder`; it is not in there, as the folder may be another's."""
    return folder.parent / ".locks" / f"{folder.name}.json"


@contextmanager
def training_lock(folder: Path) -> Iterator[None]:
    """Hold the lock on training what lies in `folder`.

    Raises:
        RunInUseError: another process holds it; nothing was touched.
    """
    file, own = lock_file(folder), Holder.of_this_process()
    with locked(
        file.with_name(".lock")
    ):  # or of two that find a lock of the past, one would take away that of the other
        if file.exists():
            holder = _read(file)
            if holder is not None and not holder.is_gone(own):
                raise RunInUseError(_told(folder, holder, own))
            file.unlink()
        _write(file, own, folder)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def _write(file: Path, own: Holder, folder: Path) -> None:
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:  # of another machine, whose locks are not ours
        raise RunInUseError(f"{folder} is being trained by another command, as {file} says") from None
    with os.fdopen(descriptor, "w") as opened:
        opened.write(json.dumps(asdict(own)) + "\n")
        opened.flush()
        os.fsync(descriptor)


def _read(file: Path) -> Holder | None:
    """Return who holds a lock; None where a kill has left it empty.

    Raises:
        RunInUseError: it is damaged.
    """
    text = file.read_bytes()
    if not text:
        time.sleep(EMPTY_SECONDS)
        text = file.read_bytes()
    try:
        return Holder.of_json(parse_json(text, str(file)), str(file)) if text else None
    except UserError:
        raise RunInUseError(
            f"{file} is damaged, so it is not known whether another command trains this run; if none does, type: "
            f"rm {shlex.quote(str(file))}"
        ) from None


def _told(folder: Path, holder: Holder, own: Holder) -> str:
    told = f"{folder} is being trained by process {holder.pid} on {holder.host}, since {holder.since} UTC; "
    if holder.is_near(own):
        return f"{told}wait for it, or end it with a checkpoint by: kill {holder.pid}"
    return f"{told}wait for it. If that process is gone, type: rm {shlex.quote(str(lock_file(folder)))}"


def _text(file: str) -> str:
    """Return what a file of the system says; empty where there is none, as on macOS."""
    return Path(file).read_text().strip() if Path(file).exists() else ""


def _link(file: str) -> str:
    return os.readlink(file) if os.path.lexists(file) else ""
