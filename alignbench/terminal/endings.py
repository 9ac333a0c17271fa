"""How a program ends before its work is done: one sentence on stderr in place of a traceback.

Exit status 2: the command must be changed. 130: stopped by Ctrl-C. 1: a defect of the program, whose traceback is in a
file.
"""

import errno
import io
import os
import platform
import shlex
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from alignbench.errors import UserError

PATIENCE_SECONDS = 5.0  # in which the main process says what is wrong for all
STOPPED, DEFECT, REFUSED = 130, 1, 2
OF_THE_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EMFILE, errno.ENFILE}


@contextmanager
def one_sentence(results: Path = Path("results")) -> Iterator[None]:
    """End the program with a sentence where what is within cannot go on.

    Args:
        results: the folder that the file about a defect goes to.
    """
    _replace_what_cannot_be_encoded()
    try:
        yield
    except UserError as error:
        stop(error)
    except KeyboardInterrupt:
        stop_by_hand("nothing was begun")
    except Exception as error:
        tell_failure(error, results)
        sys.exit(REFUSED if of_the_machine(error) else DEFECT)


def _replace_what_cannot_be_encoded() -> None:
    """Print `?` for arrows and other signs that the locale of a terminal or file has not, as LANG=C."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def stop(error: Exception) -> NoReturn:
    """Tell the user, and end. Launchers end all processes with the first, so the main one has to get its word in."""
    _tell(str(error))
    sys.exit(REFUSED)


def stop_by_hand(kept: str, command: Sequence[str] = (), program: str = "alignbench") -> NoReturn:
    """Say what Ctrl-C has left, and end.

    Args:
        kept: what lies on the disk.
        command: the words after `python -m PROGRAM` that go on from there; empty where nothing does.
        program: the module that was run.
    """
    _close_bars()
    if is_main():
        told = f"stopped by Ctrl-C; {kept}"
        if command and os.environ.get("WORLD_SIZE", "1") == "1":
            told += f"; go on by: python -m {program} {shlex.join(command)}"
        elif command:
            told += "; repeat the command to go on"
        print(f"\nalignbench: {told}", file=sys.stderr, flush=True)
    sys.exit(STOPPED)


def tell_failure(error: Exception, results: Path, job: str = "") -> None:
    """Say in a sentence why a program or a job of it ended: the machine lacks something, or the program has a defect.

    Args:
        results: the folder that the file about a defect goes to.
        job: which of several, as in `job 2 of 3`.
    """
    reason = of_the_machine(error)
    if reason is None:
        reason = _defect(error, results)
    _tell(f"{job} failed: {reason}" if job else reason)


def of_the_machine(error: BaseException) -> str | None:
    """Return a sentence about an error that the machine is the reason of, and not the program; None for others."""
    first = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return (
            f"memory ran out ({first.rstrip('.') or 'of the machine'}); lower train.micro_batch_size or "
            "sampling.batch_size, or add memory=checkpointing; dry_run=true estimates training"
        )
    if isinstance(error, OSError) and error.errno in OF_THE_MACHINE:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}; what was finished is kept, so repeat the command when that is mended"
    return None


def _defect(error: Exception, results: Path) -> str:
    """Write the traceback into a file, and return the sentence about it."""
    told = f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")
    told = told if len(told) <= 300 else f"{told[:300]}..."
    text = "".join(
        (
            f"alignbench {_version('alignbench')}, torch {_version('torch')}, diffusers {_version('diffusers')}, ",
            f"Python {platform.python_version()}, {platform.system()}\n{shlex.join(sys.argv)}\n\n",
            *traceback.format_exception(error),
        )
    )
    file = results / "defects" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError:
        print(text, file=sys.stderr)
        return f"{told}. This is a defect of alignbench, not of your command; send the lines above to its maintainers"
    return f"{told}. This is a defect of alignbench, not of your command; send {file} to its maintainers"


def _version(package: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:  # PackageNotFoundError is one
        return "not installed"


def _tell(sentence: str) -> None:
    _close_bars()
    if is_main():
        print(f"alignbench: {sentence}", file=sys.stderr, flush=True)
    else:
        time.sleep(PATIENCE_SECONDS)  # where the others fail alike, this one does not live to tell it again
        print(f"alignbench: process {os.environ['RANK']}: {sentence}", file=sys.stderr, flush=True)


def _close_bars() -> None:
    """End the line of a progress bar that was left open, which would otherwise be drawn again behind the sentence."""
    if (tqdm := sys.modules.get("tqdm")) is not None:
        for bar in list(getattr(tqdm.tqdm, "_instances", ())):
            bar.close()


def is_main() -> bool:
    """Return whether this process speaks for all."""
    return os.environ.get("RANK", "0") == "0"
