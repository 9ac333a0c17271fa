"""Hand in runs as one file, check such a file, and bring it into a results folder.

    python -m alignbench.capsule pack RUN [RUN ...] --out FILE    runs, with the base run that they are compared with
    python -m alignbench.capsule verify FILE                      is it whole, and are its images and scores made again?
    python -m alignbench.capsule merge FILE [FILE ...] RESULTS    beside the runs of RESULTS, in its tables and its page

A capsule holds manifests, configurations, prompts, scores, statistics, logs and thumbnails, but no full images.
docs/capsules.md explains what is checked.
"""

import argparse
import os
from collections.abc import Sequence

from alignbench.errors import UserError
from alignbench.files import home_path
from alignbench.terminal.endings import one_sentence

SHARE = 0.05


def main() -> None:
    """Pack, verify or merge as the command line says. See `alignbench.terminal.endings` for its exit status."""
    args = arguments()
    with one_sentence(kept="no finished file or run has changed"):
        if args.action == "pack":
            from alignbench.capsule.pack import pack

            pack(args.runs, args.out, args.policy)
        elif args.action == "verify":
            if not 0 < args.share <= 1:
                raise UserError(f"--share {args.share:g} must be above 0 and at most 1, as 0.05 for 5 %")
            os.environ["HF_HUB_OFFLINE"] = "1"  # a stranger's file must not start downloads
            from alignbench.capsule.verify import verify

            verify(args.file, args.share, args.seed, args.policy)
        else:
            from alignbench.capsule.merge import merge

            merge(args.files, args.results)


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read a command line, that of this process by default."""
    parser = argparse.ArgumentParser(
        prog="python -m alignbench.capsule", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="pack|verify|merge")
    pack = actions.add_parser("pack", help="write runs into one file")
    pack.add_argument("runs", nargs="+", type=home_path, metavar="RUN", help="a run folder")
    pack.add_argument("--out", required=True, type=home_path, metavar="FILE", help="the file to write")
    pack.add_argument("--policy", action="store_true", help="add the LoRA weights that the runs trained")
    verify = actions.add_parser("verify", help="check a capsule, and make a share of its images and scores again")
    verify.add_argument("file", type=home_path, metavar="FILE")
    verify.add_argument("--share", type=float, default=SHARE, help=f"of the images to make again; {SHARE} by default")
    verify.add_argument("--seed", type=int, help="chooses the images; drawn and printed by default")
    verify.add_argument(
        "--policy",
        type=home_path,
        action="append",
        default=[],
        metavar="PATH",
        help="weights that it lacks, for each run",
    )
    merge = actions.add_parser("merge", help="bring capsules into a results folder, and write its tables and page")
    merge.add_argument("files", nargs="+", type=home_path, metavar="FILE")
    merge.add_argument("results", type=home_path, metavar="RESULTS")
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
