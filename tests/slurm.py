"""A real Slurm of two nodes on this machine, on the loopback, for tests of what it does with jobs."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

DAEMONS = ("munged", "slurmctld", "slurmd")
TIME_LIMIT = 60.0  # seconds for both nodes to be ready
JOB_SECONDS = 600.0  # in which what a test waits for happens
CONFIGURATION = """
ClusterName=local
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
NodeName=a NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=1000
NodeName=b NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=1000
PartitionName=main Nodes=a,b Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture
def slurm(tmp_path) -> Iterator[Path]:
    """Start a Slurm that `sbatch` and its like use; return its folder. Skipped where there is none, or no right to."""
    if os.getuid() != 0 or not all(shutil.which(one) for one in DAEMONS):
        pytest.skip("Slurm is not installed (apt-get install slurm-wlm munge), or this is not root")
    with started(tmp_path / "slurm") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        yield folder


@contextmanager
def started(folder: Path) -> Iterator[Path]:
    """Start a Slurm in a folder, and stop it afterwards."""
    for name in ("state", "spool.a", "spool.b"):
        (folder / name).mkdir(parents=True)
    (folder / "slurm.conf").write_text(CONFIGURATION.format(folder=folder, ports=_free_ports(3)))
    environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
    commands = {
        "slurmctld": ["slurmctld", "-D"], "a": ["slurmd", "-D", "-N", "a"], "b": ["slurmd", "-D", "-N", "b"],
    }  # fmt: skip
    if subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode:  # no munged is there yet
        subprocess.run(["install", "-d", "-o", "munge", "-g", "munge", "/run/munge"], check=True)
        commands = {"munged": ["runuser", "-u", "munge", "--", "munged", "--foreground"]} | commands
    running = []
    try:
        for name, command in commands.items():
            with (folder / f"{name}.log").open("w") as log:
                running.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            if name == "munged":
                _wait(["munge", "-n"], "", environment)
        _wait(["sinfo", "-h", "-t", "idle", "-o", "%D"], "2", environment)
        yield folder
    finally:
        for one in reversed(running):
            one.terminate()
        for one in running:
            one.wait(timeout=30)


def _wait(command: list[str], answer: str, environment: dict[str, str]) -> None:
    """Ask until a command succeeds with an answer; empty for any."""
    deadline = time.monotonic() + TIME_LIMIT
    while time.monotonic() < deadline:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode == 0 and (not answer or done.stdout.strip() == answer):
            return
        time.sleep(0.2)
    raise AssertionError(f"{' '.join(command)} did not answer {answer!r} within {TIME_LIMIT:g} s")


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def ask(*command: str) -> str:
    """Run a command of Slurm; return what it prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def wait_until(there: Callable[[], bool]) -> None:
    """Wait until something is there."""
    deadline = time.monotonic() + JOB_SECONDS
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.2)
