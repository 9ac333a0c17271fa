"""The settings under `compare`: which pairs of images comparers see in the stage `compare`."""

from typing import Literal

from alignbench.settings.section import Count, Section, setting

RunPairs = Literal["all", "base"]
Orders = Literal["both", "random"]


class Compare(Section):
    """Which pairs of images comparers see."""

    pairs: RunPairs = setting(
        "base",
        "Runs whose images this run's are compared with. base: those of base. all: those of every other run of the "
        "same model that has images of the same prompts and sampling. The base run is compared with all in any case.",
    )
    orders: Orders | None = setting(
        None,
        "both: each pair is shown in both orders, which cancels what the position adds. random: in one order drawn at "
        "random, at half the calls. null: both for at most 2000 prompts, random for more.",
    )
    num_prompts: Count | None = setting(
        None,
        "Prompts whose images are compared, drawn evenly from the groups of the prompt set; a larger number keeps "
        "those of a smaller one. null: all.",
    )
    max_calls: Count | None = setting(
        None,
        "Calls that one command makes of all its comparers together. After them it stops; all verdicts are kept, and "
        "the same command goes on. null: no limit.",
    )
