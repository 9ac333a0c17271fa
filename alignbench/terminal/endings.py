"""How a program ends before its work is done: one sentence on stderr in place of a traceback.

Exit status 2: the command must be changed, or the machine lacks something. 128 and the number of a signal, 130 for
Ctrl-C: a signal asked to end. 141: nobody reads the output any more. 1: a defect of the program, whose traceback is in
a file.
"""

import io
import os
import platform
import select
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from alignbench.errors import StopRequested, UserError
from alignbench.terminal import slurm
from alignbench.terminal.machine import of_the_machine

PATIENCE_SECONDS = 5.0  # in which the main process says what is wrong for all
DEFECT, REFUSED = 1, 2
REQUEUE = "requeue=true"  # the word of a command, for signals that come before it is read


@contextmanager
def one_sentence(
    results: Path = Path("results"), kept: str = "nothing was begun", requeues: bool = False
) -> Iterator[None]:
    """End the program with a sentence where what is within cannot go on.

    Args:
        results: the folder that the file about a defect goes to.
        kept: what lies on the disk when a signal ends it.
        requeues: see `stop_by_signal`.
    """
    _replace_what_cannot_be_encoded()
    try:
        yield
    except UserError as error:
        stop(error)
    except KeyboardInterrupt as error:
        stop_by_signal(error, kept, requeues=requeues)
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


def stop_by_signal(
    error: KeyboardInterrupt,
    kept: str,
    command: Sequence[str] | None = None,
    program: str = "alignbench",
    requeues: bool = False,
) -> NoReturn:
    """Say what a signal has left, and end.

    Args:
        error: what the signal raised; a plain KeyboardInterrupt is Ctrl-C.
        kept: what lies on the disk.
        command: the words after `python -m PROGRAM` that go on from there; None where nothing does.
        program: the module that was run.
        requeues: whether Slurm is asked to start the job again if SIGUSR1 has announced its end.
    """
    stopped = error if isinstance(error, StopRequested) else StopRequested(signal.SIGINT)
    job = slurm.job_id() if requeues and stopped.signum == signal.SIGUSR1 else None
    told = f"stopped by {stopped.told}; {kept}"
    if job is not None:
        told += f"; Slurm is asked to put job {job} back into its queue"
    elif command is not None and os.environ.get("WORLD_SIZE", "1") == "1":
        told += f"; go on by: python -m {program} {shlex.join(command)}".rstrip()
    elif command is not None:
        told += "; repeat the command to go on"
    with suppress(OSError):  # after SIGHUP nobody reads it
        _close_bars()
        if is_main():
            print(f"\nalignbench: {told}", file=sys.stderr, flush=True)
    if job is not None and is_main() and (refused := slurm.requeue(job)) is not None:
        _tell(f"Slurm does not start job {job} again: {refused}; submit it once more")
    sys.exit(stopped.exit_status)


def tell_failure(error: Exception, results: Path, job: str = "", kept: str = "what was finished is kept") -> str:
    """Say in a sentence why a program or a job of it ended: the machine lacks something, or the program has a defect.

    Returns:
        The sentence.

    Args:
        results: the folder that the file about a defect goes to.
        job: which of several, as in `job 2 of 3`.
        kept: what lies on the disk, in words.
    """
    if isinstance(error, BrokenPipeError) and _nobody_reads():
        _end_silently()
    reason = of_the_machine(error, kept)
    if reason is None:
        reason = _defect(error, results)
    _tell(f"{job} failed: {reason}" if job else reason)
    return reason


def _nobody_reads() -> bool:
    """Whether the output goes to a program that has ended, as to `head` when it has read enough."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _end_silently() -> NoReturn:
    """End as the shell's own programs do whose reader has ended: there is nobody to tell."""
    # or the interpreter would fail to write the rest when it ends
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(128 + signal.SIGPIPE)


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
