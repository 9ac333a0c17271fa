"""Measure parts one after the other, each in a process of its own, as many as there is time for."""

import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from alignbench.files import write_json, write_text
from alignbench.reading import read_json_object
from benchmarks.gpu.table import markdown

Scale = Literal["full", "tiny"]
Figures = dict[str, Any]
MACHINE = "machine"  # the part that says what the others are measured on
RESERVE_SECONDS = 5.0  # for the last table, and for a process to die


@dataclass(frozen=True)
class Part:
    """One thing that is measured.

    Attributes:
        seconds: that it is expected to take at full size on an H200, the start of CUDA included.
        measure: returns its figures, as JSON has them.
        needs_gpu: whether it is left out at tiny scale, which runs on a CPU.
    """

    name: str
    seconds: float
    measure: Callable[[Scale], Figures]
    needs_gpu: bool = False


class Runner:
    """The parts of one call and what they have found.

    Args:
        measure: returns the figures of the part of a name, and of `MACHINE`. It is called in other processes.
        out: folder of the results.
        deadline: when all has to end, by `time.monotonic`.
        start_method: how processes begin: fork, or spawn, which imports everything again.
    """

    def __init__(
        self,
        measure: Callable[[str, Scale], Figures],
        out: Path,
        scale: Scale,
        deadline: float,
        start_method: str = "fork",
    ) -> None:
        self.measure, self.out, self.scale, self.deadline = measure, out, scale, deadline
        self._context: Any = multiprocessing.get_context(start_method)
        self._began = time.monotonic()

    def run(self, parts: Sequence[Part]) -> list[dict[str, Any]]:
        """Measure the parts that there is time for; return an entry for each, and write all figures after each."""
        machine, done = self._in_process(MACHINE), []
        if machine["status"] != "measured":
            raise RuntimeError(f"nothing can be measured: {machine['reason']}; see {self.out / 'gpu.log'}")
        for part in parts:
            entry = {"name": part.name, "expected_seconds": part.seconds, **self._entry(part)}
            done.append(entry)
            print(f"{part.name:28} {entry['status']:9} {entry.get('reason', '')}", flush=True)
            seconds = time.monotonic() - self._began
            found = {"scale": self.scale, "seconds": seconds, "machine": machine["figures"], "parts": done}
            write_json(self.out / "gpu.json", found)
            write_text(self.out / "gpu.md", markdown(found))
        return done

    def _entry(self, part: Part) -> dict[str, Any]:
        left = self.deadline - RESERVE_SECONDS - time.monotonic()
        if self.scale == "tiny" and part.needs_gpu:
            return {"status": "skipped", "reason": "it needs a GPU"}
        if left < (part.seconds if self.scale == "full" else 0):
            return {"status": "skipped", "reason": f"{max(0.0, left):.0f} s were left, {part.seconds:.0f} are expected"}
        return self._in_process(part.name)

    def _in_process(self, name: str) -> dict[str, Any]:
        """Measure a part in a process of its own; return its figures, or why there are none."""
        log = self.out / "gpu.log"
        with tempfile.TemporaryDirectory() as folder:
            result, began = Path(folder, "figures.json"), time.monotonic()
            process = self._context.Process(target=_write_figures, args=(self.measure, name, self.scale, result, log))
            process.start()
            process.join(max(0.0, self.deadline - RESERVE_SECONDS - began))
            is_late = process.is_alive()
            if is_late:
                process.kill()
                process.join()
            took = {"took_seconds": time.monotonic() - began}
            if result.exists():
                return {"status": "measured", **took, "figures": read_json_object(result)}
        if is_late:
            return {"status": "ended", **took, "reason": "the time was over"}
        *_, last = ["", *log.read_text(errors="replace").split("\n")[:-1]]
        return {"status": "failed", **took, "reason": f"exit status {process.exitcode}: {last[:300]}"}


def _write_figures(measure: Callable[[str, Scale], Figures], name: str, scale: Scale, result: Path, log: Path) -> None:
    """Do in a process of its own what one part measures; what is printed goes to the log."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    sys.stdout, sys.stderr = (open(stream, "w", closefd=False) for stream in (1, 2))  # noqa: SIM115
    print(f"---- {name}", flush=True)
    write_json(result, measure(name, scale))
    sys.stdout.flush()
    os._exit(0)  # no thread of a library keeps the next part waiting
