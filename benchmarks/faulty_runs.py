"""Commands that are killed, or whose disk is full, at a place that is drawn: what `benchmarks.faults` and tests use.

A command runs in a forked process, so that libraries are loaded once for all. A place is a number: of the changes that
the command makes to files below a folder, each is a place. What a command reads it may read again, so between two
changes there is nothing more to try.
"""

import csv
import faulthandler
import hashlib
import itertools
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
# figures of a run that are other each time
VOLATILE = {
    "started",
    "command",
    "commit",
    "train_seconds",
    "device_hours",
    "peak_memory_gib",
    "seconds",
    "duration",
    "check",
}  # the last is a digest of the others, too
TOO_LONG = 300.0  # seconds that a command may take
UNLIKE = {"last_command.json"}  # files that hold times of others

Fault = Callable[[], None]


@dataclass
class Places:
    """Counts the changes below a folder, and does something at one of them.

    Args:
        root: the folder.
        at: number of the place, from 1; None only counts.
        act: what happens there, before the change is made.
        counted: the file that the count is left in when the process ends.
    """

    root: Path
    at: int | None = None
    act: Fault = lambda: None
    counted: Path | None = None
    count: int = field(default=0, init=False)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1), init=False)

    def install(self) -> None:
        """Watch this process from now on; there is no way back."""
        root = str(self.root.resolve())

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if event == "open":
                path, _, flags = arguments
                if not isinstance(flags, int) or not flags & WRITING:
                    return
            elif event in CHANGES:
                path = arguments[0]
            else:
                return
            if isinstance(path, str | os.PathLike) and os.path.abspath(path).startswith(root):
                number = next(self._numbers)  # threads change files, too, and each change has a number of its own
                self.count = max(self.count, number)
                if number == self.at:
                    self.act()

        sys.addaudithook(hook)

    def leave(self) -> None:
        """Write down how many places there were."""
        if self.counted is not None:
            self.counted.write_text(str(self.count))


def kill() -> None:
    """Die as by SIGKILL from outside."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_after(seconds: float) -> Fault:
    """Return a fault that kills a little later, in the midst of what follows the place."""
    return lambda: threading.Timer(seconds, kill).start()


def limit_file_size(num_bytes: int) -> Fault:
    """Return a fault that lets no file grow beyond a size, as a quota does."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))


@dataclass
class Started:
    """A command in processes of its own.

    Attributes:
        pids: of its processes, in rank order.
        logs: what each of them printed.
    """

    pids: list[int]
    logs: list[Path]
    statuses: dict[int, int] = field(default_factory=dict)

    def wait(self) -> list[int]:
        """Return the exit status of each process, minus the number of the signal that ended it.

        As launchers do: where one process fails, the others are asked to end, and killed if they do not within 30 s.
        What takes longer than `TOO_LONG` is killed, too; each process has printed by then where it was.
        """
        deadline, asked = time.monotonic() + TOO_LONG, None
        while not self.poll():
            if asked is None and any(self.statuses.values()):
                asked = time.monotonic()
                self.send(signal.SIGTERM)
            late = time.monotonic() > deadline or (asked is not None and time.monotonic() > asked + 30)
            if late:
                self.send(signal.SIGKILL)
            time.sleep(0.02)
        return [self.statuses[pid] for pid in self.pids]

    def poll(self) -> bool:
        """Say whether all processes have ended."""
        for pid in [one for one in self.pids if one not in self.statuses]:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self.statuses[pid] = os.waitstatus_to_exitcode(status)
        return len(self.statuses) == len(self.pids)

    def send(self, signum: int, rank: int | None = None) -> None:
        """Send a signal to the processes that live, or to one of them."""
        for pid in self.pids if rank is None else [self.pids[rank]]:
            if pid not in self.statuses:
                with suppress(ProcessLookupError):
                    os.kill(pid, signum)

    @property
    def told(self) -> str:
        """All that was printed."""
        return "".join(log.read_text(errors="replace") for log in self.logs)


def start(
    words: Sequence[str],
    folder: Path,
    faults: Sequence[Places | Fault | None] = (None,),
    program: Callable[[], None] | None = None,
    environment: dict[str, str] | None = None,
) -> Started:
    """Start a command in as many processes as there are faults, one for each of them.

    Args:
        words: after `python -m alignbench`.
        folder: for what the processes print.
        program: its main function; that of `alignbench` by default.
        environment: what a launcher says to its processes.
    """
    from alignbench.cli import main

    folder.mkdir(parents=True, exist_ok=True)
    number = len(list(folder.iterdir()))
    logs = [folder / f"{number:04d}-{rank}.log" for rank in range(len(faults))]
    port, pids = _free_port(), []
    for rank, (fault, log) in enumerate(zip(faults, logs, strict=True)):
        log.touch()
        pid = os.fork()
        if pid == 0:
            launched = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": len(faults), "LOCAL_WORLD_SIZE": len(faults)}
            launched |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            told = {key: str(value) for key, value in launched.items()} if len(faults) > 1 else {}
            _be_the_command(words, log, fault, program or main, told | (environment or {}))
        pids.append(pid)
    return Started(pids, logs)


def _be_the_command(
    words: Sequence[str], log: Path, fault: Places | Fault | None, main: Callable[[], None], told: dict[str, str]
) -> None:
    """Do in a forked process what a command does; never return."""
    status = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
        sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr
        faulthandler.dump_traceback_later(0.9 * TOO_LONG, file=2)
        _own_progress_bars()
        os.environ.update(told)
        sys.argv[:] = ["alignbench", *words]
        if isinstance(fault, Places):
            fault.install()
        elif fault is not None:
            fault()
        main()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        if isinstance(fault, Places):
            fault.leave()
        os._exit(status)


def _own_progress_bars() -> None:
    """Give this process bars of its own: forked ones share a lock, which a kill in the midst of a bar leaves locked."""
    from tqdm import auto, std

    for bar in (std.tqdm, auto.tqdm):
        bar.set_lock(threading.RLock())


def _free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


# ---- what is compared


def contents(root: Path) -> dict[str, str]:
    """Return a digest of each file that a results folder is to hold, without what is other each time.

    Left out are pictures and pages of the report, logs for trackers, locks, and files that a kill left unfinished.
    """
    found = {}
    for file in sorted(root.rglob("*")):
        name = file.relative_to(root).as_posix()
        parts = name.split("/")
        hidden = any(part.startswith(".") and not part.endswith(".unfinished") for part in parts)
        if not file.is_file() or hidden or parts[0] in ("report", "tensorboard", "defects") or file.name in UNLIKE:
            continue
        if file.suffix in (".html", ".md", ".tex") or parts[0].startswith("."):
            continue
        found[name] = hashlib.sha256(_comparable(file).replace(str(root).encode(), b"RESULTS")).hexdigest()
    return found


def _comparable(file: Path) -> bytes:
    if file.suffix == ".csv":
        with file.open(newline="") as opened:
            rows = [{key: cell for key, cell in row.items() if key not in VOLATILE} for row in csv.DictReader(opened)]
        return json.dumps(rows).encode()
    if file.suffix == ".json":
        return json.dumps(_without_volatile(json.loads(file.read_bytes())), sort_keys=True).encode()
    return file.read_bytes()


def _without_volatile(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_volatile(one) for key, one in value.items() if key not in VOLATILE}
    return [_without_volatile(one) for one in value] if isinstance(value, list) else value


def differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """Return what differs, in words."""
    told = [f"{name} is missing" for name in expected.keys() - found.keys()]
    told += [f"{name} is too many" for name in found.keys() - expected.keys()]
    told += [f"{name} differs" for name in expected.keys() & found.keys() if found[name] != expected[name]]
    return sorted(told)
