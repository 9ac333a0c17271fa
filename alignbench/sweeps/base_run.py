"""`python -m alignbench.sweeps.base_run WORDS`: make the images and scores of the base run that a job needs.

A sweep runs this once before its other cells, which would otherwise wait for the first of them to do it.
"""

import sys

from alignbench.terminal.endings import one_sentence
from alignbench.terminal.signals import handled

STAGES = ("generate", "score")  # of the base run, that several cells need


def main() -> None:
    """Do it. See `alignbench.terminal.endings` for the exit status."""
    with handled(), one_sentence(kept="finished images and scores are kept"):
        _main(sys.argv[1:])


def _main(words: list[str]) -> None:
    from alignbench.configuration.build import base_of
    from alignbench.configuration.compose import composed
    from alignbench.configuration.typed.plain_values import settle_arguments
    from alignbench.stages.job import run

    cfg = composed(words)
    settle_arguments(cfg)
    base = base_of(cfg)
    base.stages = [stage for stage in STAGES if stage in base.stages] or ["generate"]
    run(base)


if __name__ == "__main__":
    main()
