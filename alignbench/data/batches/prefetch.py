"""Make the next value in a thread while the last one is used."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


class Prefetch(Generic[T]):
    """One value that is made in a thread before it is needed, and then the next one.

    Between `start` and `take` nothing else may use what the thread uses. The thread ends with `close`, with this
    object, or with the program.
    """

    def __init__(self) -> None:
        # with more threads of its own, torch would take cores from the update that runs meanwhile
        self._thread = ThreadPoolExecutor(1, "prefetch", initializer=torch.set_num_threads, initargs=(1,))
        self._next: Future[T] | None = None

    def start(self, make: Callable[[], T]) -> None:
        """Begin to make the next value, unless that was done.

        Args:
            make: is given here and not kept: who makes values and holds this object would else hold itself.
        """
        if self._next is None:
            self._next = self._thread.submit(make)

    def take(self) -> T:
        """Return the value that was begun, and wait until it is made; an error is raised here as it is."""
        assert self._next is not None
        made, self._next = self._next, None
        return made.result()

    def close(self) -> None:
        """End the thread; a value that is being made is waited for and forgotten."""
        self._thread.shutdown(cancel_futures=True)
