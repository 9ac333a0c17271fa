"""Errors that are the user's to mend."""

import difflib
import signal
from collections.abc import Sequence


class UserError(ValueError):
    """An error of the user's input, told in one sentence: what was found, what was expected, what to do."""


class RunError(UserError):
    """What ends one run; the others of a sweep go on."""


class DivergedError(RunError):
    """Training came to a number that is not finite."""


class MemoryRanOutError(RunError):
    """The device or the machine has too little memory for what a run does."""


class RunInUseError(RunError):
    """Another command trains the run."""


class StopRequested(KeyboardInterrupt):
    """A signal asked the program to end.

    Args:
        signum: the signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signal.Signals(signum)

    @property
    def told(self) -> str:
        """What the user calls the signal."""
        return "Ctrl-C" if self.signum == signal.SIGINT else self.signum.name

    @property
    def exit_status(self) -> int:
        """What a shell calls a program that this signal ended, 130 for Ctrl-C."""
        return 128 + self.signum


def did_you_mean(word: str, available: Sequence[str]) -> str:
    """Return the end of a sentence about an unknown word: those it may stand for, and all there are."""
    close = difflib.get_close_matches(word, available, n=3, cutoff=0.5)
    return (f" did you mean {' or '.join(close)}?" if close else "") + f" available: {', '.join(available) or 'none'}"
