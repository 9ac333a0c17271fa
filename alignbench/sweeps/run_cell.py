"""Run one cell of a sweep: its command in a process of its own, which nothing that the cell does can make the sweep's.

Whatever ends the process, a refusal, a defect, a kill or too little memory, becomes the state of this cell and ends no
other. What it prints goes to a log of its own. A signal to this process reaches the cell once, as SIGTERM, and is acted
on when the cell has written its checkpoint.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from alignbench.errors import RunInUseError
from alignbench.sweeps.record import Cell, Sweep
from alignbench.sweeps.state import CellFiles, State

POLL_SECONDS = 0.2
SHUTDOWN_SECONDS = 3600  # in which processes behind torchrun end an update, or a round, and write a checkpoint
PREFIX = "alignbench: "  # of the sentence by which a program ends
# Slurm sends these to all processes of a job: they are for this process, and the cell would end without a checkpoint
IGNORING = ("/bin/sh", "-c", 'trap "" HUP USR1 USR2; exec "$@"', "sh")


def run_cell(
    results: Path,
    sweep: Sweep,
    number: int,
    processes: int,
    stopped: Callable[[], bool],
    job: str | None = None,
    devices: Sequence[str] | None = None,
) -> State:
    """Run a cell to its end, and return how it stands then; it is also written to its state.

    Args:
        number: which of the cells of the sweep.
        processes: of the cell, which torchrun starts if they are several.
        stopped: whether a signal has asked this process to end; the cell is then told to end, and waited for.
        job: number of the job in a queue that this process belongs to.
        devices: the GPUs that the cell sees; None for those that this process sees.
    """
    cell = sweep.cells[number]
    files = CellFiles(results, sweep, cell)
    try:
        state = files.begin(job, processes)
    except RunInUseError as error:
        return State("failed", reason=str(error))
    with files.beating(), files.log.open("ab") as log:
        log.write(f"--- attempt {state.attempts}\n".encode())
        log.flush()
        begins = log.tell()
        status, told_to_end = _watched(_command(cell, processes), Path(sweep.folder), log.fileno(), devices, stopped)
    reason = _reason(files.log, begins, status)
    failed = state.ended("pre-empted" if told_to_end else "failed", reason)
    state = state.ended("done") if status == 0 else failed
    files.write(state)
    return state


def _command(cell: Cell, processes: int) -> list[str]:
    module = "alignbench.sweeps.base_run" if cell.is_base else "alignbench"
    program = ["-m", module, *cell.words]
    if processes == 1:
        return [sys.executable, *program]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return [sys.executable, *torchrun, "--shutdown-timeout", str(SHUTDOWN_SECONDS), *program]


def _watched(
    command: list[str], folder: Path, log: int, devices: Sequence[str] | None, stopped: Callable[[], bool]
) -> tuple[int, bool]:
    """Run a command to its end; return its status, and whether it was told to end."""
    environment = dict(os.environ) | {"PYTHONUNBUFFERED": "1"}
    if devices is not None:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
    child = subprocess.Popen(
        [*IGNORING, *command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,  # Ctrl-C at a terminal would reach it a second time
    )
    told_to_end = False
    while child.poll() is None:
        try:
            if stopped() and not told_to_end:
                child.send_signal(signal.SIGTERM)
                told_to_end = True
            time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:  # by which Ray cancels a cell
            child.send_signal(signal.SIGTERM)
            told_to_end = True
    return child.returncode, told_to_end


def _reason(log: Path, begins: int, status: int) -> str:
    """Return the sentence by which a command ended, or what its status says."""
    with log.open("rb") as file:
        file.seek(begins)
        lines = file.read().decode(errors="replace").replace("\r", "\n").splitlines()
    told = [line.removeprefix(PREFIX) for line in lines if line.startswith(PREFIX)]
    if status < 0:
        name = signal.Signals(-status).name
        return f"it was ended by {name}" + ("; the machine may lack memory" if name == "SIGKILL" else "")
    return told[-1] if told else f"it ended with status {status}"
