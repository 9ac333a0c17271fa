"""The command line: check the whole command, then run the requested stages of each job."""

import argparse
import difflib
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import NoReturn

import hydra
from hydra._internal.callbacks import Callbacks
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import run_job
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

import alignbench
from alignbench.configuration.build import conf_folder, run_name
from alignbench.configuration.compose import (
    CheckedJob,
    as_composed,
    checked_jobs,
    for_sweep,
    in_hydra,
    is_plausible,
    launcher_of,
    unchecked,
)
from alignbench.configuration.usage import usage
from alignbench.errors import MemoryRanOutError, StopRequested, UserError
from alignbench.settings.section import Section
from alignbench.stages.last_command import recall
from alignbench.store.run_folder import RunFolder
from alignbench.sweeps.follow import SweepRun
from alignbench.sweeps.launch import IN_PROCESS, launcher_settings
from alignbench.terminal.endings import (
    DEFECT,
    REFUSED,
    REQUEUE,
    is_main,
    one_sentence,
    stop,
    stop_by_signal,
    tell_failure,
)
from alignbench.terminal.machine import of_the_machine
from alignbench.terminal.signals import asked_to_end, handled
from alignbench.terminal.waiting import waiting

PACE_OF = 4  # jobs by which the time left is estimated
NUM_NAMED = 6  # jobs of a sweep that are named when it ends early
FAILED = "--failed"  # the only flag of ours, which Hydra does not know


def main() -> None:
    """Run `python -m alignbench [-m] [key=value ...]`; see `alignbench.terminal.endings` for its exit status."""
    if sys.argv[1:] == ["--version"]:
        print(f"alignbench {alignbench.__version__}")
        return
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(usage())
        return
    with handled():
        _main(sys.argv[1:])


def _main(typed: list[str]) -> None:
    with one_sentence():
        args = read_flags(typed)
    asks_for_text = args.hydra_help or args.info or args.cfg or args.shell_completion
    sweep, found, tree = None, None, None
    requeues = REQUEUE in args.overrides  # a signal may come before anything is composed of the words
    with one_sentence(_results(args.overrides), requeues=requeues):
        check_neighbours()
        _refuse_other_configurations(args)
        _rewrite_words(args, as_composed(args.overrides))
        if not asks_for_text:
            if is_main():
                print(f"alignbench {alignbench.__version__}  {' '.join(typed)}".rstrip(), flush=True)
            found = unchecked(args.overrides)
            is_one_run = found is not None and not (args.multirun or found.is_sweep)
            if found is not None and is_one_run and is_plausible(found.cfg) and _tell_what_is_done(found.cfg):
                return
            tree = found.tree if found is not None and is_one_run else None
            with waiting("loading libraries, checking the command"):
                jobs = checked_jobs(args.overrides, args.multirun, tree)
            launcher, settings = launcher_of(args.overrides, tree)
            if launcher != IN_PROCESS:
                chosen = launcher_settings(launcher, settings)
            found = found or unchecked(args.overrides)
            make_folder(Path(jobs[0].cfg.results).expanduser())
            if len(jobs) > 1 or launcher != IN_PROCESS:
                sweep = _sweep(jobs, typed, launcher, args.failed)
            elif args.failed:
                raise UserError(f"{FAILED} is about the jobs of a sweep, and this command is one run; leave it out")
            _rewrite_words(args, for_sweep(args.overrides, args.multirun))
    requeues = found is not None and found.cfg.requeue
    if sweep is not None and sweep.launcher != IN_PROCESS:
        with one_sentence(sweep.results, requeues=requeues):
            _launch(sweep, chosen, jobs, typed, requeues)
    else:
        _run_jobs(typed, sweep, requeues, None if sweep else tree)
    if sweep is None:
        return
    with one_sentence(sweep.results, "all jobs are done"):
        if is_main():
            sweep.tell_table()
            _tell_all(jobs[0].cfg)
    if status := sweep.exit_status:
        sys.exit(status)


def _sweep(jobs: list[CheckedJob], typed: list[str], launcher: str, only_failed: bool) -> SweepRun:
    """Write what a sweep is to be.

    Raises:
        UserError: its jobs have several results folders.
    """
    if len(folders := {str(job.cfg.results) for job in jobs}) > 1:
        raise UserError(f"the jobs of a sweep share one results folder; these have {', '.join(sorted(folders))}")
    words = [word for word in typed if word != FAILED]
    return SweepRun.begin(jobs, words, launcher, only_failed)


def _launch(sweep: SweepRun, settings: Section, jobs: list[CheckedJob], typed: list[str], requeues: bool) -> None:
    """Run the jobs of a sweep side by side."""
    try:
        sweep.launch(settings, [job.cfg for job in jobs])
    except KeyboardInterrupt as error:
        stop_by_signal(error, f"finished jobs are kept{_left(sweep.not_done)}", typed, requeues=requeues)


def _run_jobs(typed: list[str], sweep: SweepRun | None, requeues: bool, tree: DictConfig | None) -> None:
    """Run the jobs of a checked command one after the other.

    Args:
        sweep: what is noted of each; None if there is only one.
        requeues: whether Slurm is asked to start the command again where it announces its end.
        tree: of a command that is one run, what was composed of it.
    """
    ends = [time.monotonic()]  # of the jobs of a sweep
    labels = sweep.labels if sweep else []

    def job(cfg: DictConfig) -> None:
        number = len(ends)
        name = f"job {number} of {len(labels)}" if sweep else ""
        if sweep and not sweep.is_left(number - 1):
            ends.append(time.monotonic())
            return
        if name and is_main():
            print(f"{name}{_time_left(ends, len(labels))}", flush=True)
        try:
            with sweep.noting(number - 1) if sweep else nullcontext():
                _job(cfg)
        except KeyboardInterrupt as error:
            _stop(error, cfg, name, labels[number:], typed, requeues)
        except UserError as error:
            told = f"{error}; {_kept(cfg)}" if isinstance(error, MemoryRanOutError) else str(error)
            if not sweep:
                stop(UserError(told))
            sweep.failed(number - 1, REFUSED, told)
            print(f"alignbench: {name} failed: {told}", file=sys.stderr, flush=True)
        except Exception as error:  # the other jobs of a sweep need not fail
            is_refusal = of_the_machine(error) is not None
            if not is_refusal and (signum := asked_to_end()) is not None:  # it may have ended what the job waits for
                _stop(StopRequested(signum), cfg, name, labels[number:], typed, requeues)
            told = tell_failure(error, Path(cfg.results), name, _kept(cfg))
            status = REFUSED if is_refusal else DEFECT
            if not sweep:
                sys.exit(status)
            sweep.failed(number - 1, status, told)
        finally:
            ends.append(time.monotonic())

    try:
        if tree is not None:
            run_once(job, tree)
        else:
            hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")(job)()
    except KeyboardInterrupt as error:  # between two jobs
        told = "finished jobs are kept" + _left(labels[len(ends) - 1 :])
        stop_by_signal(error, told, typed, requeues=requeues)


def run_once(task: Callable[[DictConfig], None], tree: DictConfig) -> None:
    """Run `task` as Hydra runs a job: with its settings known to `HydraConfig`, in the environment that they ask for.

    `hydra.main` would compose the same words twice more, once to find out that they are no sweep.

    Args:
        tree: what Hydra composed of the command, which has Hydra's own settings, too.
    """
    with in_hydra():
        tree.hydra.mode = RunMode.RUN
        callbacks = Callbacks(tree)
        context = HydraContext(GlobalHydra.instance().config_loader(), callbacks)
        callbacks.on_run_start(config=tree, config_name="config")
        found = run_job(task, tree, job_dir_key="hydra.run.dir", job_subdir_key=None, hydra_context=context)
        callbacks.on_run_end(config=tree, config_name="config", job_return=found)
        _ = found.return_value  # raises what the job raised


def _stop(
    error: KeyboardInterrupt, cfg: DictConfig, name: str, left: list[str], typed: list[str], requeues: bool
) -> NoReturn:
    """End a command in whose job a signal came, with all the jobs that are left."""
    told = f"{name}: {_kept(cfg)}{_left(left)}" if name else _kept(cfg)
    stop_by_signal(error, told, typed, requeues=requeues)


def _left(jobs: list[str]) -> str:
    """Say which jobs of a sweep were not begun."""
    if not jobs:
        return ""
    more = f" and {len(jobs) - NUM_NAMED} more" if len(jobs) > NUM_NAMED else ""
    return f"; not begun: {', '.join(jobs[:NUM_NAMED])}{more}"


def _kept(cfg: DictConfig) -> str:
    from alignbench.stages.early_end import kept

    return kept(cfg)


def _tell_what_is_done(cfg: DictConfig) -> bool:
    """Print what the same command came to, if it was finished and nothing has changed since; say whether it was."""
    if cfg.dry_run:
        return False
    run = RunFolder(Path(cfg.results) / run_name(cfg))
    told = recall(cfg, run)
    if told is not None:
        print(f"{run.name}  done before, and nothing has changed since\n{told}", end="")
    return told is not None


def _tell_all(cfg: DictConfig) -> None:
    """Print one table of all methods, once a sweep is done."""
    if "report" not in cfg.stages or not (Path(cfg.results) / "leaderboard.csv").exists():
        return
    from rich.console import Console

    from alignbench.report.terminal.sweep_table import print_sweep

    print_sweep(Path(cfg.results), Console(highlight=False))


def _results(words: list[str]) -> Path:
    """Return the results folder that the words of a command name, before anything is composed of them."""
    named = [word.partition("=")[2] for word in words if word.startswith("results=")]
    return Path(named[-1].strip("'\"") if named else "results").expanduser()


def read_flags(words: list[str]) -> argparse.Namespace:
    """Return the flags and the words of a command.

    Raises:
        UserError: a flag is unknown, or has a value that it cannot have.
    """
    parser = get_args_parser()
    parser.exit_on_error = False
    parser.add_argument(FAILED, action="store_true", help="of a sweep: only the jobs that failed")
    try:
        args, unknown = parser.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise UserError(f"{error}; --help lists the flags") from None
    for flag in unknown:
        name, equal, value = flag.lstrip("-").partition("=")
        known = [option for option in parser._option_string_actions if option.startswith("--")]
        close = difflib.get_close_matches(flag, known, n=1)
        typed = f"{name}={value}" if equal else f"{name}=VALUE"
        hint = f"did you mean {close[0]}" if close else f"keys have no dashes, as in {typed}"
        raise UserError(f"{flag} is no flag; {hint}? --help lists flags and keys")
    return args


def make_folder(results: Path) -> None:
    """Make the results folder, where Hydra would only give its own error.

    Raises:
        UserError: there can be none.
    """
    try:
        results.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"results={results} cannot be made ({error.strerror}); give another folder") from None


def _rewrite_words(args: argparse.Namespace, overrides: list[str]) -> None:
    """Give a command other words, where Hydra will read it anew, too: those of `as_composed` or `for_sweep`."""
    if overrides != args.overrides or FAILED in sys.argv:
        options = [word for word in sys.argv[1:] if word not in (*args.overrides, FAILED)]
        args.overrides, sys.argv[1:] = overrides, [*overrides, *options]


def _refuse_other_configurations(args: argparse.Namespace) -> None:
    """Refuse Hydra's flags that take the configuration from a folder: its files could name any code to run.

    Raises:
        UserError: naming the flag.
    """
    for flag in ("config_path", "config_name", "config_dir", "experimental_rerun"):
        if getattr(args, flag) is not None:
            raise UserError(
                f"--{flag.replace('_', '-')} would run what files of a folder name; put your configuration files into "
                "conf/, or type their values"
            )


def _time_left(ends: list[float], num_jobs: int) -> str:
    """Say how long a sweep will take, at the pace of the last jobs: those before may have been done long ago."""
    from alignbench.text import duration

    recent = ends[-PACE_OF - 1 :]
    if len(recent) == 1:
        return ""
    left = (recent[-1] - recent[0]) / (len(recent) - 1) * (num_jobs - len(ends) + 1)
    return f", {duration(ends[-1] - ends[0])} so far, about {duration(left)} left"


def check_neighbours() -> None:
    """Refuse to run with foreign packages called `methods` or `evaluators`.

    Raises:
        UserError: naming the intruder.
    """
    here = Path(alignbench.__file__).resolve().parent.parent
    for name in ("methods", "evaluators"):
        module = __import__(name)
        found = Path(module.__file__ or module.__path__[0]).resolve()
        if here not in found.parents:
            raise UserError(f"the package {name!r} comes from {found}, not from {here}; take the intruder off the path")


def _job(cfg: DictConfig) -> None:
    from alignbench.configuration.typed.plain_values import settle, settle_arguments
    from alignbench.stages.dry_run import dry_run
    from alignbench.stages.job import run

    settle_arguments(settle(cfg))
    (dry_run if cfg.dry_run else run)(cfg)
