"""A sweep that this command runs: what it writes of it, and what it says at its end."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from alignbench.configuration.build import base_of, has_images, is_base, run_name, trains
from alignbench.store.origin.provenance import now
from alignbench.store.run_folder import RunFolder
from alignbench.sweeps.launch import IN_PROCESS, launch
from alignbench.sweeps.ownership import signature
from alignbench.sweeps.record import Cell, Sweep, cells_of, sweep_name
from alignbench.sweeps.state import CellFiles, State
from alignbench.terminal.endings import DEFECT, REFUSED, is_main
from alignbench.terminal.signals import asked_to_end

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from alignbench.configuration.compose import CheckedJob
    from alignbench.settings.section import Section

NOT_DONE = {
    "waiting": "were not begun",
    "running": "are being run by another command",
    "failed": "failed, as told above",
    "pre-empted": "were stopped, as told above; the same command goes on with them",
}
NEED_IMAGES = {"generate", "score", "compare", "report"}  # stages that need those of the base run


@dataclass
class SweepRun:
    """A sweep and what this command does of it.

    Attributes:
        numbers: where the cell of each job stands among all cells: base cells come first.
        only_failed: whether only the jobs that failed are run.
        statuses: exit status of each job that failed in this process.
    """

    results: Path
    sweep: Sweep
    numbers: list[int]
    only_failed: bool
    statuses: list[int] = field(default_factory=list)

    @classmethod
    def begin(cls, jobs: "Sequence[CheckedJob]", typed: list[str], launcher: str, only_failed: bool) -> Self:
        """Write what the sweep is to be, and return it."""
        described = [(job.told, job.words, _run(job.cfg), _updates(job.cfg)) for job in jobs]
        cells = cells_of(described)
        bases = [] if launcher == IN_PROCESS else _base_cells(jobs)
        here = str(Path.cwd())
        signed = signature(typed, here)
        sweep = Sweep(sweep_name(cells), typed, launcher, here, now(), [*bases, *cells], signed)
        found = cls(Path(jobs[0].cfg.results), sweep, list(range(len(bases), len(sweep.cells))), only_failed)
        if is_main():
            sweep.write(found.results)
        return found

    @property
    def launcher(self) -> str:
        return self.sweep.launcher

    @property
    def labels(self) -> list[str]:
        """The names of the jobs, in order."""
        return [self.sweep.cells[number].name for number in self.numbers]

    @property
    def not_done(self) -> list[str]:
        """The names of the jobs that are not done."""
        return [self._files(n).cell.name for n in range(len(self.numbers)) if self._files(n).read().standing != "done"]

    def _files(self, job: int) -> CellFiles:
        return CellFiles(self.results, self.sweep, self.sweep.cells[self.numbers[job]])

    # ---- jobs that run one after the other in this process

    def is_left(self, job: int) -> bool:
        """Say whether a job is to be run: what is done says so itself at once."""
        return not self.only_failed or self._files(job).read().standing == "failed"

    @contextmanager
    def noting(self, job: int) -> Iterator[None]:
        """Note how a job of this process stands while it runs and when it has ended.

        Raises:
            RunInUseError: another command runs it.
        """
        if not is_main():
            yield
            return
        files = self._files(job)
        state = files.begin(None, int(os.environ.get("WORLD_SIZE", "1")))
        try:
            with files.beating():
                yield
        except KeyboardInterrupt:
            files.write(state.ended("pre-empted", "a signal ended the command"))
            raise
        except BaseException as error:
            stopped = asked_to_end() is not None
            files.write(state.ended("pre-empted" if stopped else "failed", " ".join(str(error).split()) or repr(error)))
            raise
        files.write(state.ended("done"))

    def failed(self, job: int, status: int, reason: str) -> None:
        """Note why a job of this process failed."""
        self.statuses.append(status)
        if is_main() and (state := self._files(job).read()).standing == "failed":
            self._files(job).write(State(**{**vars(state), "reason": reason}))

    # ---- jobs that run side by side

    def launch(self, settings: "Section", configurations: "Sequence[DictConfig]") -> None:
        """Run what is left; see `alignbench.sweeps.launch.launch`."""
        made = {run_name(base_of(cfg)) for cfg in configurations if _needs_base(cfg) and _has_base_images(cfg)}
        launch(self.results, self.sweep, settings, made, self.only_failed, lambda line: print(line, flush=True))

    # ---- the end

    def tell_table(self) -> None:
        """Print the table of the sweep, with a line for each failure."""
        from alignbench.sweeps.standing import standing_of
        from alignbench.sweeps.table import print_table
        from alignbench.terminal.console import open_console

        print_table(self.results, self.sweep, open_console())
        standings = [row.standing for row in standing_of(self.results, self.sweep)]
        for standing, told in NOT_DONE.items():
            if number := standings.count(standing):
                print(f"alignbench: {number} of {len(standings)} jobs {told}", file=sys.stderr, flush=True)

    @property
    def exit_status(self) -> int:
        """0 if all jobs of this sweep are done, 1 if one of them failed by a defect of the program, or else 2."""
        if DEFECT in self.statuses:
            return DEFECT
        if self.launcher == IN_PROCESS:
            return REFUSED if self.statuses else 0
        standings = [CellFiles(self.results, self.sweep, cell).read() for cell in self.sweep.cells]
        if any("This is a defect of alignbench" in (state.reason or "") for state in standings):
            return DEFECT
        return REFUSED if any(state.standing != "done" for state in standings) else 0


def _run(cfg: "DictConfig") -> str:
    return "" if has_images(cfg) else run_name(cfg)


def _updates(cfg: "DictConfig") -> int:
    return cfg.train.max_train_steps if not has_images(cfg) and trains(cfg) and "train" in cfg.stages else 0


def _needs_base(cfg: "DictConfig") -> bool:
    return not (has_images(cfg) or cfg.dry_run or is_base(cfg)) and bool(NEED_IMAGES & {*cfg.stages})


def _base_cells(jobs: "Sequence[CheckedJob]") -> list[Cell]:
    """Return a cell for each base run that several jobs need the images of."""
    own = {_run(job.cfg) for job in jobs}
    found: dict[str, Cell] = {}
    for job in jobs:
        if _needs_base(job.cfg) and (name := run_name(base_of(job.cfg))) not in own:
            number = len(found)
            found.setdefault(name, Cell(f"base of {job.cfg.model.name}", f"base-{number}", job.words, name, 0, True))
    return list(found.values())


def _has_base_images(cfg: "DictConfig") -> bool:
    """Say whether the base run of a job has all images that the job compares its own with."""
    from alignbench.configuration.build import build, frames_of, resolve
    from alignbench.generation.generate import Sampling, generated

    run = RunFolder(Path(cfg.results) / run_name(base_of(cfg)))
    if not run.manifest_file.exists():
        return False
    built = {"control": build(cfg.sampling.control), "frames": frames_of(cfg.model)}
    sampling = Sampling(**resolve(cfg)["sampling"] | built)
    return generated(run, build(cfg.prompts), sampling.at_full_strength)
