"""Fit a judge to pairs of images, so that models can be aligned with, and measured by, the taste of those who judged.

    python -m alignbench.train_reward data=shapes
    python -m alignbench.train_reward data=local data.path=FOLDER judge=head name=anna

What comes of it is a folder results/judges/NAME, and at once an evaluator and a reward of that name:

    python -m alignbench method=srpo reward=judge reward.path=results/judges/anna
    python -m alignbench +evaluator@evaluators.anna=judge evaluators.anna.path=results/judges/anna

docs/configuration.md and conf/judge explain every key; docs/judges.md says how to read what is printed.
"""

import argparse
import sys
from collections.abc import Sequence

from omegaconf import OmegaConf

from alignbench.cli import check_neighbours
from alignbench.configuration.compose import composed
from alignbench.errors import DivergedError
from alignbench.terminal.endings import one_sentence, stop_by_signal
from alignbench.terminal.signals import handled


def main() -> None:
    """Fit a judge as the command line says; see `alignbench.terminal.endings` for its exit status."""
    args = arguments()
    with handled(), one_sentence():
        check_neighbours()
        cfg = composed(args.overrides, "train_reward")
        if args.cfg:
            print(OmegaConf.to_yaml(cfg), end="")
            return
        from alignbench.train_reward.checks import check
        from alignbench.train_reward.run import train_reward

        check(cfg)
        try:
            train_reward(cfg)
        except FloatingPointError as error:
            raise DivergedError(
                f"{error}; lower train.learning_rate or train.max_grad_norm. {cfg.results}/judges keeps the last "
                "checkpoint"
            ) from None
        except KeyboardInterrupt as error:
            kept = f"{cfg.results}/judges keeps what was finished"
            stop_by_signal(error, kept, sys.argv[1:], "alignbench.train_reward")


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read a command line, that of this process by default."""
    parser = argparse.ArgumentParser(
        prog="python -m alignbench.train_reward",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as in docs/configuration.md")
    parser.add_argument("--cfg", action="store_true", help="print the whole configuration, and do nothing else")
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
