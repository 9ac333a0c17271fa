"""Find the best setting of a method, on prompts that the report does not show.

    python -m alignbench.search method=dpo model=sd15_mini prompts=shapes_validation \\
        search.objective=win_rate:shapes_annotators \\
        'train.learning_rate=log(1e-6,1e-3)' 'method.beta=choice(250,500,1000)'

Settings with values to try are written as for Hydra's sweepers: choice(A,B), range(A,B), interval(A,B),
int(interval(A,B)), tag(log,interval(A,B)); log(A,B) is short for the last. All other words are those of
`python -m alignbench`. The same command continues a search, and the same command in several shells shares it.
docs/search.md explains what is chosen, and how.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from alignbench.errors import UserError
from alignbench.search.settings import PREFIX, SearchSettings, read_settings
from alignbench.settings.section import help_lines
from alignbench.terminal.endings import one_sentence, stop_by_signal
from alignbench.terminal.signals import handled

if TYPE_CHECKING:
    from alignbench.search.space import Space


def main() -> None:
    """Search as the command line says. See `alignbench.terminal.endings` for its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m alignbench.search",
        description=__doc__,
        epilog=help_lines(SearchSettings, PREFIX).replace("%", "%%"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", metavar="key=value", help="settings, and the keys below")
    args = parser.parse_args()
    with handled(), one_sentence():
        try:
            _search(args.words)
        except KeyboardInterrupt as error:
            kept = "finished trials are kept, and the one that was running goes on from its last checkpoint"
            stop_by_signal(error, kept, sys.argv[1:], "alignbench.search")


def _search(words: list[str]) -> None:
    settings, shared, space = read_words(words)
    from alignbench.cli import check_neighbours
    from alignbench.search.run import search

    check_neighbours()
    search(shared, space, settings)


def read_words(words: Sequence[str]) -> "tuple[SearchSettings, list[str], Space]":
    """Return what the words of a command say: how to search, what all trials share, and which settings vary.

    Raises:
        UserError: a word is not understood, or Optuna is not installed.
    """
    settings = read_settings([word for word in words if word.startswith(PREFIX)])
    if find_spec("optuna") is None:
        from alignbench.configuration.build import installation

        raise UserError(f"a search needs the package optuna, which is not installed: {installation('optuna')}")
    from alignbench.search.space import split_words

    return settings, *split_words([word for word in words if not word.startswith(PREFIX)])


if __name__ == "__main__":
    main()
