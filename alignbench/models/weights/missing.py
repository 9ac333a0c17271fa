"""Weights that are not at hand: told at once for a whole command, and not file by file."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from alignbench.errors import UserError


class MissingWeightsError(UserError):
    """A file or a repository is not on this machine and cannot be fetched now.

    Args:
        sentence: all that there is to say of it alone.
        download: the words after `hf download` that fetch it; None where that is not the way.
        no_answer: why the hub does not answer; empty where it does.
    """

    def __init__(self, sentence: str, download: str | None = None, no_answer: str = "") -> None:
        super().__init__(sentence)
        self.download, self.no_answer = download, no_answer


_noted: ContextVar[list[MissingWeightsError] | None] = ContextVar("missing weights", default=None)


@contextmanager
def all_missing() -> Iterator[None]:
    """Let checks go on after weights that are missing, and name all of them in the end.

    Raises:
        UserError: one line for each.
    """
    noted: list[MissingWeightsError] = []
    token = _noted.set(noted)
    try:
        yield
    except MissingWeightsError as error:
        noted.append(error)
    finally:
        _noted.reset(token)
    by_sentence = {str(error): error for error in noted}
    if len(by_sentence) == 1:
        raise next(iter(by_sentence.values()))
    if by_sentence:
        raise UserError(_together(list(by_sentence.values())))


def note(error: MissingWeightsError) -> None:
    """Keep an error for `all_missing`; where nothing collects them, raise it."""
    if (noted := _noted.get()) is None:
        raise error
    noted.append(error)


def no_answer() -> str:
    """Return why the hub did not answer a check before this one, so that nobody waits for it again; empty if it did."""
    return next((error.no_answer for error in _noted.get() or () if error.no_answer), "")


@contextmanager
def going_on() -> Iterator[None]:
    """Leave what cannot be checked without weights that are missing, and go on behind it."""
    try:
        yield
    except MissingWeightsError as error:
        note(error)


def _together(errors: list[MissingWeightsError]) -> str:
    downloads = dict.fromkeys(error.download for error in errors if error.download is not None)
    others = [f"  {error}" for error in errors if error.download is None]
    told = f"{len(downloads) + len(others)} sets of weights are missing"
    if downloads:
        reason = next(error.no_answer for error in errors if error.no_answer)
        told += f", and the hub cannot be reached ({reason}); while connected, run"
    return "\n".join([told, *(f"  hf download {words}" for words in downloads), *others])
