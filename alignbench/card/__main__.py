"""How far are judges to be trusted? Measure evaluators and comparers on images that people judged.

    python -m alignbench.card
    python -m alignbench.card comparers=shapes evaluators=none
    python -m alignbench.card evaluators=papers human_pairs=pickapic human_pairs.pickapic.path=FOLDER

A card says how often a judge agrees with people, by our protocol and by the rule of each publication; whether its
probabilities mean what they say; how far it can be raised without others noticing; how much it says that others do
not; and what it costs. Cards are results/cards/NAME@VERSION.json; results/cards/cards.md shows them all. Tables that
are made later name the accuracy of each evaluator that has a card.

docs/which_judge.md explains the figures, docs/configuration.md and conf/human_pairs every key.
"""

import argparse
from collections.abc import Sequence

from omegaconf import OmegaConf

from alignbench.configuration.compose import composed
from alignbench.terminal.endings import one_sentence
from alignbench.terminal.signals import handled


def main() -> None:
    """Make cards as the command line says. See `alignbench.terminal.endings` for its exit status."""
    args = arguments()
    with handled(), one_sentence(kept="images that were scored are not scored again"):
        cfg = composed(args.overrides, "card")
        if args.cfg:
            print(OmegaConf.to_yaml(cfg), end="")
            return
        from alignbench.card.checks import check

        check(cfg)
        from alignbench.card.run import make_cards

        make_cards(cfg)


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read a command line, that of this process by default."""
    parser = argparse.ArgumentParser(
        prog="python -m alignbench.card", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as in docs/configuration.md")
    parser.add_argument("--cfg", action="store_true", help="print the whole configuration, and do nothing else")
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
