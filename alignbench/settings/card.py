"""The settings of `python -m alignbench.card`, which says how far judges are to be trusted; see docs/which_judge.md."""

from typing import Annotated

from pydantic import Field

from alignbench.settings.section import Count, CountOrZero, Section, Seed, setting

Levels = Annotated[int, Field(ge=1, le=255)]


class CardCommand(Section):
    """What one command measures, and where the cards go."""

    num_prompts: Count | None = setting(
        None,
        "Prompts of each data set whose images are judged, drawn by their texts; a larger number keeps those of a "
        "smaller one. null: all.",
    )
    comparer_pairs: Count = setting(
        500, "Pairs of each data set that a comparer sees, each in both orders; drawn evenly."
    )
    batch_size: Count = setting(16, "Images that go through a network at once.")
    calibration: bool = setting(
        True, "Score a few shipped images first, and refuse evaluators whose scores are not as expected."
    )
    runs: str | None = setting(
        None,
        "Results folder with trained runs. Cards then say what methods that trained on an evaluator gained by it and "
        "by others. null: cards say nothing of it.",
    )
    seed: Seed = setting(0, "Of random signs and of the images that are drawn.")
    results: str = setting("results", "Folder of results. Cards go to its folder cards.")


class Exploit(Section):
    """How cards find out how far a scorer can be raised without others noticing."""

    num_images: CountOrZero = setting(200, "Images that are changed along the gradient of each reward. 0: none.")
    num_steps: Count = setting(20, "Signed gradient steps.")
    levels: Annotated[list[Levels], Field(min_length=1)] = setting(
        [2, 8], "Largest change of a channel of a pixel, of 255 levels."
    )
    best_of: Annotated[list[Count], Field(min_length=1)] = setting(
        [1, 2, 4, 8, 16], "Numbers of images of a prompt among which a scorer chooses the best."
    )
    comparer_prompts: CountOrZero = setting(
        0,
        "Prompts whose images all meet, two by two in both orders, before each comparer, which then chooses the best "
        "of them: N (N - 1) calls for N images of a prompt. 0: comparers choose none.",
    )
