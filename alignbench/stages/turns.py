"""Who of several commands does a piece of work: one trains a run, one makes what several need while the others wait."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from rich.console import Console

from alignbench.errors import RunInUseError
from alignbench.files import remove_unfinished_folders
from alignbench.settings.command import Stage
from alignbench.store.training_lock import training_lock
from alignbench.work_share import WorkShare

POLL_SECONDS = 1.0


@contextmanager
def training_alone(folder: Path, accelerator: Accelerator) -> Iterator[None]:
    """Hold the lock on training a run, for all processes of this command.

    Raises:
        RunInUseError: on all of them, if another command holds it; nothing was touched.
    """
    with ExitStack() as held:
        told = None
        if accelerator.is_main_process:
            try:
                held.enter_context(training_lock(folder))
                remove_unfinished_folders(folder)
            except RunInUseError as error:
                told = str(error)
        (told,) = broadcast_object_list([told])
        if told is not None:
            raise RunInUseError(told)
        yield


@contextmanager
def turn(
    stage: Stage, folder: Path, work_share: WorkShare, accelerator: Accelerator, console: Console
) -> Iterator[None]:
    """Fill a folder in one command at a time: several may need what a stage makes there, as of the base run.

    The others wait, but not for a command that was killed. Where a file system has no locks, commands work side by
    side; the result is the same.

    Args:
        work_share: of the command; shards fill a folder together.
    """
    file = folder / f".{stage}-{work_share.shard}-of-{work_share.num_shards}.lock"
    with ExitStack() as held:
        opened = None
        if accelerator.is_main_process:
            file.parent.mkdir(parents=True, exist_ok=True)
            opened = held.enter_context(file.open("a"))
        is_waiting = False
        # asked again and again, since processes of this command cannot wait for each other for hours
        while not broadcast_object_list([opened is not None and _is_free(opened)])[0]:
            if not is_waiting:
                console.print(f"{stage}: waiting for another command that does this in {folder}", soft_wrap=True)
                is_waiting = True
            time.sleep(POLL_SECONDS)
        yield


def _is_free(opened: TextIO) -> bool:
    """Take the lock on a file if nobody has it."""
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
