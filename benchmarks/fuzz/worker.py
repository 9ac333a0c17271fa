"""Do something many times in a process of its own, so that one that hangs or dies is counted and the rest goes on."""

import ctypes
import multiprocessing
import os
import resource
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import psutil

from alignbench.errors import UserError

HANG_SECONDS = 20.0  # of CPU time, so that a busy machine is no hang
STUCK_SECONDS = 300.0  # in which one that waits for something has to go on
MORE_MEMORY = 4 * 2**30  # bytes that one input may take beside what the program has
REFUSED, READ, FAILED = range(3)
MAX_KEPT = 20  # failures of a reader that are told


@dataclass
class Count:
    """What came of the inputs of one reader.

    Attributes:
        failures: what is told of each failure, by the number of its input.
    """

    reader: str
    tried: int = 0
    refused: int = 0
    read: int = 0
    tracebacks: int = 0
    hangs: int = 0
    seconds: float = 0.0
    failures: dict[int, str] = field(default_factory=dict)


def outcome(attempt: Callable[[], Any], lines: int = 1) -> tuple[int, str]:
    """Do something once; return what came of it, and what is told of a failure.

    Args:
        lines: that a refusal may have; a command has one for each wrong setting.
    """
    try:
        attempt()
    except UserError as error:
        sentence = str(error)
        if any(not line.strip() for line in sentence.split("\n")[:lines]) or sentence.count("\n") >= lines:
            return FAILED, f"no single sentence: {sentence!r:.300}"
        return REFUSED, ""
    except Exception as error:
        frames = [one for one in traceback.extract_tb(error.__traceback__) if "/benchmarks/fuzz/" not in one.filename]
        ours = [one for one in frames if any(f"/{name}/" in one.filename for name in ("alignbench", "evaluators"))]
        place = (ours or frames or [None])[-1]
        where = f"{os.path.basename(place.filename)}:{place.lineno}" if place else "?"
        return FAILED, f"{type(error).__name__} at {where}: {str(error).strip()!r:.160}"
    return READ, ""


def run(
    reader: str, attempt: Callable[[int], Callable[[], Any]], numbers: range, until: float, lines: int = 1
) -> Count:
    """Do something for each number until a time; return what came of it.

    Args:
        attempt: returns what is to be done for a number.
        until: as of `time.monotonic`.
        lines: see `outcome`.
    """
    context = multiprocessing.get_context("fork")
    count, begin = Count(reader), time.monotonic()
    first = numbers.start
    while first < numbers.stop and time.monotonic() < until:
        current = context.Value(ctypes.c_longlong, first - 1, lock=False)
        tallies = [context.Value(ctypes.c_longlong, 0, lock=False) for _ in range(3)]
        told = context.SimpleQueue()
        shared = (until, current, tallies, told, lines)
        child = context.Process(target=_work, args=(attempt, range(first, numbers.stop), *shared))
        child.start()
        hung = _watch(child, current)
        while not told.empty():
            number, text = told.get()
            count.failures[number] = text
        done = [int(one.value) for one in tallies]
        count.refused, count.read = count.refused + done[REFUSED], count.read + done[READ]
        count.tracebacks += done[FAILED]
        last = int(current.value)
        count.tried += sum(done)
        if hung or child.exitcode not in (0, None):
            count.tried += 1
            count.hangs += hung
            count.tracebacks += not hung
            count.failures[last] = "hangs" if hung else f"the process died with exit status {child.exitcode}"
            first = last + 1
        else:
            first = numbers.stop
    count.seconds = time.monotonic() - begin
    return count


def _watch(child: Any, current: "Synchronized[Any]") -> bool:
    """Wait for a process; end it, and return True, if one input takes too long."""
    process = psutil.Process(child.pid)
    seen, since, used = current.value, time.monotonic(), 0.0
    while child.exitcode is None:
        child.join(0.2)
        with suppress(psutil.NoSuchProcess):
            if current.value != seen:
                seen, since, used = current.value, time.monotonic(), sum(process.cpu_times()[:2])
            too_long = time.monotonic() - since > STUCK_SECONDS
            if child.exitcode is None and (too_long or sum(process.cpu_times()[:2]) - used > HANG_SECONDS):
                child.kill()
                child.join()
                return True
    return False


def _work(
    attempt: Callable[[int], Callable[[], Any]],
    numbers: range,
    until: float,
    current: "Synchronized[Any]",
    tallies: "list[Synchronized[Any]]",
    told: Any,
    lines: int,
) -> None:
    used = resource.getpagesize() * int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (used + MORE_MEMORY, resource.RLIM_INFINITY))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff tells of every damaged picture
    kept = 0
    for number in numbers:
        if time.monotonic() > until:
            return
        current.value = number
        result, text = outcome(attempt(number), lines)
        tallies[result].value += 1
        if result == FAILED and kept < MAX_KEPT:
            told.put((number, text))
            kept += 1
