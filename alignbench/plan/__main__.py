"""How many prompts, images and training seeds show a win rate, before anything is made.

    python -m alignbench.plan win_rate=0.53 images=4 rho=0.3 ties=0.1 comparisons=6
    python -m alignbench.plan results=results win_rate=0.55 seeds=5

Without `results` the variances are assumed; with it they are those of the finished runs of a folder, method by method
over base. docs/statistics.md explains the figures.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import yaml

from alignbench.errors import UserError, did_you_mean
from alignbench.plan.lines import PlanSettings, plan
from alignbench.settings.section import help_lines
from alignbench.terminal.endings import one_sentence


def main() -> None:
    """Plan as the command line says. See `alignbench.terminal.endings` for its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m alignbench.plan",
        description=__doc__,
        epilog=help_lines(PlanSettings).replace("%", "%%"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("settings", nargs="*", metavar="key=value", help="the keys below")
    args = parser.parse_args()
    with one_sentence():
        print("\n".join(plan(read_settings(args.settings))))


def read_settings(words: Sequence[str]) -> PlanSettings:
    """Return the settings of `key=value` words.

    Raises:
        UserError: a key is unknown, or a value is not allowed.
    """
    values: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise UserError(f"{word} is not understood; expected key=value, as in win_rate=0.55")
        if key not in PlanSettings.model_fields:
            raise UserError(f"{key} is unknown;{did_you_mean(key, list(PlanSettings.model_fields))}")
        try:
            values[key] = text if key == "results" else yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(f"{word} is not understood; expected a number") from None
    PlanSettings.check(values)
    return PlanSettings(**values)


if __name__ == "__main__":
    main()
