"""The command line: check the whole command, then run the requested stages of each job."""

import os
import sys
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig

import alignbench
from alignbench.config import check_command_line, conf_folder
from alignbench.errors import UserError


def main() -> None:
    """Run `python -m alignbench [-m] [key=value ...]`. Exit status 2 means: the command must be changed."""
    args = get_args_parser().parse_args()
    asks_for_text = args.help or args.hydra_help or args.info or args.cfg or args.shell_completion
    try:
        check_neighbours()
        if not asks_for_text:
            check_command_line(args.overrides, args.multirun)
    except UserError as error:
        _stop(error)
    hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")(_job)()


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
    from alignbench.stages import run

    try:
        run(cfg)
    except UserError as error:
        _stop(error)


def _stop(error: UserError) -> None:
    if os.environ.get("RANK", "0") == "0":  # one process speaks for all
        print(f"alignbench: {error}", file=sys.stderr)
    sys.exit(2)
