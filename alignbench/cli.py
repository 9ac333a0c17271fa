"""The command line: check the whole command, then run the requested stages of each job."""

import argparse
import logging
import os
import sys
import time
from pathlib import Path
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig

import alignbench
from alignbench.configuration.build import conf_folder
from alignbench.configuration.compose import as_composed, check_command_line
from alignbench.errors import UserError

PACE_OF = 4  # jobs by which the time left is estimated
PATIENCE_SECONDS = 5.0  # in which the main process says what is wrong for all


def main() -> None:
    """Run `python -m alignbench [-m] [key=value ...]`. Exit status 2 means: the command must be changed."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of a faster kernel that is not installed
    args = get_args_parser().parse_args()
    asks_for_text = args.help or args.hydra_help or args.info or args.cfg or args.shell_completion
    num_jobs = 1
    try:
        check_neighbours()
        _refuse_other_configurations(args)
        _rewrite_words(args)
        if not asks_for_text:
            num_jobs = check_command_line(args.overrides, args.multirun)
    except UserError as error:
        stop(error)
    ends = [time.monotonic()]  # of the jobs of a sweep

    def job(cfg: DictConfig) -> None:
        if num_jobs > 1 and _is_main():
            print(f"job {len(ends)} of {num_jobs}{_time_left(ends, num_jobs)}", flush=True)
        try:
            _job(cfg)
        except Exception as error:  # Hydra goes on with the others and tells of it when all are done
            if num_jobs > 1:
                print(f"alignbench: job {len(ends)} of {num_jobs} failed: {error}", file=sys.stderr, flush=True)
            raise
        finally:
            ends.append(time.monotonic())

    hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")(job)()


def _rewrite_words(args: argparse.Namespace) -> None:
    """Replace `reward=[NAME,NAME]` and `~` by what Hydra understands, where it will read the command anew, too."""
    overrides = as_composed(args.overrides)
    if overrides != args.overrides:
        options = [word for word in sys.argv[1:] if word not in args.overrides]
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
    from alignbench.configuration.plain_values import settle
    from alignbench.stages.job import dry_run, run

    try:
        settle(cfg)
        (dry_run if cfg.dry_run else run)(cfg)
    except UserError as error:
        stop(error)


def stop(error: UserError) -> NoReturn:
    """Tell the user, and end. Launchers end all processes with the first, so the main one has to get its word in."""
    if _is_main():
        print(f"alignbench: {error}", file=sys.stderr, flush=True)
    else:
        time.sleep(PATIENCE_SECONDS)  # where the others fail alike, this one does not live to tell it again
        print(f"alignbench: process {os.environ['RANK']}: {error}", file=sys.stderr, flush=True)
    sys.exit(2)


def _is_main() -> bool:
    """Return whether this process speaks for all."""
    return os.environ.get("RANK", "0") == "0"
