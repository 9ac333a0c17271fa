"""Run the cells of a sweep side by side: which are left, in which order, and what is said meanwhile."""

import shlex
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from alignbench.errors import UserError, did_you_mean
from alignbench.settings.launchers import OfRay, OfSubmititLocal, OfSubmititSlurm, OfThisMachine
from alignbench.settings.section import Section
from alignbench.sweeps.launchers.order import Order
from alignbench.sweeps.record import Sweep
from alignbench.sweeps.standing import standing_of, summary
from alignbench.sweeps.state import CellFiles
from alignbench.terminal.signals import noted
from alignbench.text import duration

LAUNCHERS: dict[str, tuple[type[Section], str]] = {  # settings, and the package that each needs
    "joblib": (OfThisMachine, "joblib"),
    "submitit_local": (OfSubmititLocal, "submitit"),
    "submitit_slurm": (OfSubmititSlurm, "submitit"),
    "ray": (OfRay, "ray"),
}
IN_PROCESS = "basic"  # one cell after the other in the process of the command


def launcher_settings(name: str, values: Mapping[str, Any]) -> Section:
    """Return the settings of a launcher.

    Raises:
        UserError: there is no such launcher, a value is not allowed, or its package is not installed.
    """
    from alignbench.configuration.build import check_package

    if name not in LAUNCHERS:
        raise UserError(f"hydra/launcher={name} is unknown;{did_you_mean(name, [IN_PROCESS, *LAUNCHERS])}")
    declared, package = LAUNCHERS[name]
    declared.check(values, "hydra.launcher")
    check_package(package, f"hydra/launcher={name}")
    return declared(**values)


def launch(
    results: Path, sweep: Sweep, settings: Section, made: Iterable[str], only_failed: bool, tell: Callable[[str], None]
) -> None:
    """Run what is left of a sweep; each cell notes how it ended.

    Args:
        made: the base runs whose images are there already.
        only_failed: whether only the cells that failed are run.

    Raises:
        StopRequested: a signal asked the command to end; the cells have ended, or stay in the queue of a cluster.
    """
    results = results.resolve()
    files = [CellFiles(results, sweep, cell) for cell in sweep.cells]
    for one in files:
        if one.cell.is_base and one.cell.run in made and one.read().standing != "done":
            one.write(one.read().ended("done"))
    left = [number for number, one in enumerate(files) if _is_left(one, only_failed)]
    first = [number for number in left if sweep.cells[number].is_base]
    then = [number for number in left if not sweep.cells[number].is_base]
    tell(f"sweep {sweep.name}: {len(then)} of {_number(sweep)} jobs are left; hydra/launcher={sweep.launcher}")
    tell(f"  from another shell: python -m alignbench.sweeps {shlex.quote(str(results))} --watch")
    with noted() as found:
        order = Order(results, sweep, first, then, lambda: found.signum is not None, tell)
        for number in _runner(sweep.launcher)(order, settings) if left else ():
            if (state := files[number].read()).standing == "waiting":
                continue
            order.tell_of(number, state.standing)
            if state.reason:
                tell(f"              {state.reason}")
            tell(f"  {summary(standing_of(results, sweep))}; this job took {duration(state.seconds)}")


def _is_left(files: CellFiles, only_failed: bool) -> bool:
    """Say whether a cell is to be run: what is done is, as long as its run folder is there."""
    state = files.read()
    if only_failed:
        return state.standing == "failed"
    has_run = not files.cell.run or (files.results / files.cell.run / "manifest.json").exists()
    return not (state.standing == "done" and has_run)


def _number(sweep: Sweep) -> int:
    return sum(not cell.is_base for cell in sweep.cells)


def _runner(launcher: str) -> Callable[[Order, Any], Iterable[int]]:
    match launcher:
        case "joblib":
            from alignbench.sweeps.launchers.this_machine import run
        case "submitit_local":
            from alignbench.sweeps.launchers.submitit_local import run
        case "submitit_slurm":
            from alignbench.sweeps.launchers.submitit_slurm import run
        case _:
            from alignbench.sweeps.launchers.on_ray import run
    return run
