"""Blind votes of people on the images of runs.

python -m alignbench.study vote results/RUN_A results/RUN_B --preset smpo   begin a study, or go on with it
python -m alignbench.study results results/studies/NAME                     count the votes
"""

import argparse
import os
from collections.abc import Sequence

from alignbench.files import home_path
from alignbench.serve.access import TOKEN_VARIABLE, check_reach, checked_token
from alignbench.terminal.endings import one_sentence
from alignbench.votes.presets import PRESETS


def main() -> None:
    """Do as the command line says. See `alignbench.terminal.endings` for its exit status."""
    args = arguments()
    with one_sentence():
        if args.command == "vote":
            vote(args)
        else:
            results(args)


def vote(args: argparse.Namespace) -> None:
    """Serve a study until a signal ends it."""
    from alignbench.study.begin import open_study
    from alignbench.study.server import StudyServer
    from alignbench.votes.ballots import Ballots

    token = checked_token(args.token or os.environ.get(TOKEN_VARIABLE))
    check_reach(args.host, token)  # before anything is made
    folder = open_study(
        args.runs,
        args.preset,
        name=args.name,
        prompt_set=args.prompt_set,
        sampling_hash=args.sampling,
        num_prompts=args.num_prompts,
        pairs=args.pairs,
        prompts_per_rater=args.prompts_per_rater,
        checks_per_rater=args.checks_per_rater,
        leave_out_below=args.leave_out_below,
        seed=args.seed,
    )
    folder.check_images()
    ballots = Ballots(folder.ballots)
    server = StudyServer(folder, ballots, args.host, args.port, token)
    votes, raters = len(ballots.votes()), len(ballots.raters())
    server.run(
        f"{folder.path}: {len(folder.study.prompts)} prompts, {votes} votes of {raters} raters so far",
        f"serving {server.url}",
    )
    ballots.close()


def results(args: argparse.Namespace) -> None:
    """Count the votes of studies, print the figures and write them beside the votes."""
    from alignbench.study.results import print_results, write_results
    from alignbench.terminal.console import open_console
    from alignbench.votes.record import StudyFolder

    for path in args.studies:
        print_results(write_results(StudyFolder(path.resolve())), open_console())


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read a command line, that of this process by default."""
    parser = argparse.ArgumentParser(
        prog="python -m alignbench.study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="vote|results")
    asking = commands.add_parser("vote", help="begin a study, or go on with the one that the same settings began")
    asking.add_argument(
        "runs", nargs="+", type=home_path, metavar="RUN", help="run folders of one model and one results folder"
    )
    asking.add_argument("--preset", required=True, choices=sorted(PRESETS), help="smpo: pairs; srpo: four grades")
    asking.add_argument("--name", help="of the study; by default made of its settings")
    asking.add_argument("--prompt-set", metavar="SET", help="where the runs have images of several")
    asking.add_argument("--sampling", metavar="HASH", help="where a prompt set was sampled in several ways")
    asking.add_argument("--num-prompts", type=int, metavar="N", help="as many of each style; by default 50 or 500")
    asking.add_argument("--pairs", choices=("all", "base"), default="all", help="base: no pairs without the base run")
    asking.add_argument("--prompts-per-rater", type=int, metavar="N", help="by default all")
    asking.add_argument(
        "--checks-per-rater", type=int, metavar="N", help="by default one for ten comparisons, 4 at least"
    )
    asking.add_argument("--leave-out-below", type=float, default=0.75, metavar="SHARE", help="of passed checks")
    asking.add_argument("--seed", type=int, default=0, help="of prompts, order, sides and checks")
    asking.add_argument("--host", default="127.0.0.1", help="any other than loopback needs a token")
    asking.add_argument("--port", type=int, default=8080, help="0 for any that is free")
    asking.add_argument("--token", help=f"what raters must bring; by default that of {TOKEN_VARIABLE}, if set")
    counting = commands.add_parser("results", help="count the votes")
    counting.add_argument("studies", nargs="+", type=home_path, metavar="STUDY", help="folders of studies")
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
