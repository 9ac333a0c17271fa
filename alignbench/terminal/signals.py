"""What a signal that asks a program to end does: nothing that was done is lost, and no traceback is shown.

Ctrl-C (SIGINT), SIGTERM, SIGHUP (the terminal was closed) and SIGUSR1 (by which batch systems announce the end of a
job) raise `StopRequested` where the program is. Within `noted()` they are only noted, and who trains acts on them
between two updates. A second signal ends the program at once. Every file is written whole or not at all, so either is
safe.

A handler that was there before, such as submitit's, is asked instead: at once, or within `noted()` when a checkpoint is
written.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from alignbench.errors import StopRequested

OURS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
SIGNALS = (*OURS, signal.SIGUSR2)  # the last is only submitit's
SAME_SIGNAL_SECONDS = 1.0  # in which a signal that comes again is no second one
BEHIND_LAUNCHER_SECONDS = 5.0  # a terminal sends Ctrl-C to a launcher and its processes, and the launcher passes it on
SHOW_CURSOR = "\x1b[?25h"  # which `alignbench.terminal.waiting` hides


class Noted:
    """The signal that asked to end since `noted()` began."""

    def __init__(self) -> None:
        self.signum: int | None = None

    @property
    def counts(self) -> list[int]:
        """How often this process got each of `SIGNALS`, 0 or 1; the sums over all processes are for `agree`."""
        return [int(one == self.signum) for one in SIGNALS]

    def agree(self, counts: Sequence[float]) -> bool:
        """Take a signal that any process got for one's own, and say whether there is one.

        Args:
            counts: sums of `counts` over all processes.
        """
        self.signum = next((one for one, count in zip(SIGNALS, counts, strict=True) if count), None)
        return self.signum is not None

    def act(self) -> None:
        """End as the signal asks, when all is stored. It returns where another handler, as submitit's, lets it go on.

        Raises:
            StopRequested: always, but for that case.
        """
        if self.signum is None:
            return
        signum, self.signum = self.signum, None
        if signum not in _handler.others:
            raise StopRequested(signum)
        _handler.others[signum](signum, None)
        _handler.first = None

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let signals raise where the program is: what lies before is stored, and what is within takes long."""
        self.act()
        _handler.noted = None
        try:
            yield
        finally:
            _handler.noted = self


class _Handler:
    """The handler of this process; without a `pid` it is not installed, and Python does what it does."""

    def __init__(self) -> None:
        self.pid: int | None = None
        self.forget()

    def forget(self) -> None:
        """Begin anew: no signal came, and nobody was there before."""
        self.others: dict[int, Callable[[int, FrameType | None], Any]] = {}  # of those who were there before
        self.noted: Noted | None = None
        self.first: tuple[float, int] | None = None  # when the first signal came, and which

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self.pid:
            _in_worker(signum)
        elif self.first is not None:
            if time.monotonic() - self.first[0] > _same_signal_seconds():
                _end_at_once(signum)
        elif signum in self.others and self.noted is None:
            self.others[signum](signum, frame)
        else:
            self.first = time.monotonic(), signum
            if self.noted is None:
                raise StopRequested(signum)
            self.noted.signum = signum
            _say("ending after this update, with a checkpoint; a second signal ends at once")


_handler = _Handler()


@contextmanager
def handled() -> Iterator[None]:
    """Handle the signals of a program. Signals that are ignored, as SIGHUP under nohup, stay ignored."""
    if threading.current_thread() is not threading.main_thread() or _handler.pid == os.getpid():
        yield
        return
    _handler.forget()
    before = {one: signal.getsignal(one) for one in SIGNALS}
    free = [one for one in OURS if before[one] in (signal.SIG_DFL, signal.default_int_handler)]
    _handler.others = {one: other for one, other in before.items() if one not in free and callable(other)}
    taken = [*free, *_handler.others]
    for one in taken:
        signal.signal(one, _handler)
    _handler.pid = os.getpid()
    try:
        yield
    finally:
        _handler.pid = None
        for one in taken:
            signal.signal(one, before[one])


@contextmanager
def noted() -> Iterator[Noted]:
    """Only note signals within; what was noted and not acted on is acted on at the end.

    Where no signals are handled, as in a notebook, nothing is noted, and Ctrl-C raises KeyboardInterrupt as ever.
    """
    found = _handler.noted = Noted()
    try:
        yield found
    finally:
        _handler.noted = None
    found.act()


def asked_to_end() -> int | None:
    """Return the signal that asked this program to end; None if none did."""
    return None if _handler.first is None else _handler.first[1]


def leave_signals_to_the_program(worker: int) -> None:
    """Let a process that reads data work on while its program ends an update: a signal may reach them all.

    The `worker_init_fn` of a DataLoader, which ends its workers itself.
    """
    for one in OURS:
        signal.signal(one, signal.SIG_IGN)


def _in_worker(signum: int) -> None:
    """Do in a process that was forked what its program wants: go on until the program ends it, which SIGTERM does."""
    if signum == signal.SIGTERM:
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)


def _same_signal_seconds() -> float:
    return BEHIND_LAUNCHER_SECONDS if "RANK" in os.environ else SAME_SIGNAL_SECONDS


def _end_at_once(signum: int) -> None:
    _say("ended at once; what was stored before is kept, and the same command goes on from there")
    os._exit(128 + signum)


def _say(sentence: str) -> None:
    """Print in a handler of signals, where `print` may be in the midst of printing."""
    if os.environ.get("RANK", "0") == "0":
        stderr = sys.__stderr__.fileno() if sys.__stderr__ else 2
        cursor = SHOW_CURSOR if os.isatty(stderr) else ""
        os.write(stderr, f"{cursor}\nalignbench: {sentence}\n".encode())
