"""Errors that are the user's to mend."""

import difflib
from collections.abc import Sequence


class UserError(ValueError):
    """An error of the user's input, told in one sentence: what was found, what was expected, what to do."""


class DivergedError(UserError):
    """Training came to a number that is not finite: the fault of one run's settings, not of a whole sweep's."""


def did_you_mean(word: str, available: Sequence[str]) -> str:
    """Return the end of a sentence about an unknown word: those it may stand for, and all there are."""
    close = difflib.get_close_matches(word, available, n=3, cutoff=0.5)
    return (f" did you mean {' or '.join(close)}?" if close else "") + f" available: {', '.join(available) or 'none'}"
