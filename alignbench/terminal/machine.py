"""Sentences about what a machine lacks: memory, room on its disks, permissions, or another process of the command."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alignbench.errors import MemoryRanOutError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS}
OTHERS = {errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE}
REMEDIES = {
    **dict.fromkeys(FULL, "free some space, or choose another disk by results=FOLDER, and repeat the command"),
    **dict.fromkeys(UNWRITABLE, "give yourself the right to it, or choose another folder, and repeat the command"),
    **dict.fromkeys(OTHERS, "repeat the command when that is mended"),
}
OF_THE_MACHINE = "of the machine"  # where an error does not say which memory
# words of torch for too little memory where it has no class of its own for that
MEMORY_WORDS = ("out of memory", "DefaultCPUAllocator", "ALLOC_FAILED", "Cannot allocate memory")
# and for a process that the others wait for in vain
LOST_WORDS = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")


def of_the_machine(error: BaseException, kept: str = "what was finished is kept") -> str | None:
    """Return a sentence about an error that the machine is the reason of, and not the program; None for others.

    Args:
        kept: what lies on the disk, in words.
    """
    if ran_out_of_memory(error):
        return (
            f"memory ran out ({first_line(error) or OF_THE_MACHINE}); lower train.micro_batch_size or "
            f"sampling.batch_size, or add memory=checkpointing; dry_run=true estimates training; {kept}"
        )
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, OSError) and number in REMEDIES:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}{_room(error)}; {kept}; {REMEDIES[number]}"
    if lost_a_process(error):
        return f"another process of this command was lost ({first_line(error)}); {kept}; repeat the command to go on"
    return None


def ran_out_of_memory(error: BaseException) -> bool:
    """Say whether an error is about memory, of the device or of the machine."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(word in str(error) for word in MEMORY_WORDS)


def lost_a_process(error: BaseException) -> bool:
    """Say whether an error comes of another process that is gone, while this one waits for it."""
    if os.environ.get("WORLD_SIZE", "1") == "1" or not isinstance(error, RuntimeError):
        return False
    return type(error).__name__.startswith("Dist") or any(word in str(error) for word in LOST_WORDS)


@contextmanager
def memory_advice(where: str, advice: str) -> Iterator[None]:
    """Say of memory that runs out within where that was, and what helps.

    Raises:
        MemoryRanOutError: in place of what torch raises.
    """
    try:
        yield
    except Exception as error:
        if not ran_out_of_memory(error):
            raise
        told = f"memory ran out {where} ({first_line(error) or OF_THE_MACHINE}); {advice}"
        raise MemoryRanOutError(told) from None


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, without its full stop."""
    first = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    return first if len(first) <= 200 else f"{first[:200]}..."


def _room(error: OSError) -> str:
    """Say what is free on the disk that is full."""
    if error.errno not in FULL:
        return ""
    place = Path(error.filename or ".").absolute()
    place = next(one for one in (place, *place.parents) if one.exists())
    free, inodes = shutil.disk_usage(place).free, os.statvfs(place)
    if inodes.f_files and not inodes.f_favail:
        return " (no further file can be made, as all inodes are used)"
    return f" ({free / 2**20:,.0f} MiB are free)"
