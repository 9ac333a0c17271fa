"""The table of all rows, and what is said of one before it is run."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path

import yaml

from alignbench.reproduce.command import POLICY, as_typed, lacks
from alignbench.reproduce.rows import Figure, Row, figures

HEADS = ("row", "hours", "printed")
WIDTH = 80  # of a terminal
LEAST_WIDTH = 16  # of a column whose texts are broken into lines
WEIGHTS = {"ships": "its weights ship", "yes": "its weights are here", "no": "its weights are not here"}
UNKNOWN = "-"


def table(rows: Iterable[Row]) -> Iterator[str]:
    """Yield the lines of the table of rows, those of a paper and model together."""
    yield "hours: device hours of training"
    yield "printed: the first figure of the row, and the number of its other figures"
    yield ""
    groups = [(key, list(group)) for key, group in groupby(rows, lambda row: (row.paper, row.model))]
    cells = [(row.id, hours(row), expected(row)) for _, group in groups for row in group]
    head, *lines = aligned([HEADS, *cells])
    yield head
    found = iter(lines)
    for (paper, model), group in groups:
        yield ""
        yield f"{paper} on {model}; {WEIGHTS[at_hand(model)]}"
        yield from (next(found) for _ in group)


def expected(row: Row) -> str:
    """Return the first figure of a row, and how many more there are."""
    first, *others = figures(row)
    return f"{first.printed.evaluator} {printed(first)}" + (f" +{len(others)}" if others else "")


def printed(figure: Figure) -> str:
    """Return a figure as it is printed."""
    return f"{figure.printed.value:.{figure.decimals}f}"


def hours(row: Row) -> str:
    """Return the device hours of training."""
    return UNKNOWN if row.device_hours is None else f"{row.device_hours:g}"


def aligned(cells: Sequence[Sequence[str]], width: int | None = None) -> Iterator[str]:
    """Yield lines whose cells stand below each other.

    Args:
        width: of the lines; where they would be longer, texts of the first column are broken between words.
    """
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    if width is not None:
        widths[0] = min(widths[0], max(LEAST_WIDTH, width - sum(2 + other for other in widths[1:])))
    for first, *others in cells:
        lines = textwrap.wrap(first, widths[0], break_long_words=False, break_on_hyphens=False) or [""]
        row = [lines[0], *others]
        yield "  ".join(cell.ljust(each) for cell, each in zip(row, widths, strict=True)).rstrip()
        yield from lines[1:]


@cache
def at_hand(model: str) -> str:
    """Return whether the weights of a model are on this machine: ships, yes or no."""
    from alignbench.configuration.build import conf_folder

    file = conf_folder() / "model" / f"{model}.yaml"
    path = yaml.safe_load(file.read_text(encoding="utf-8")).get("pretrained_model_name_or_path")
    if path is None:
        return "ships"
    if Path(path).exists():
        return "yes"
    from huggingface_hub import try_to_load_from_cache

    return "yes" if isinstance(try_to_load_from_cache(path, "model_index.json"), str) else "no"


def introduction(row: Row, given: Sequence[str]) -> Iterator[str]:
    """Yield the lines that say what a row is, what it costs and what it needs."""
    yield ", ".join(filter(None, [f"{row.id}: {row.cited}", row.model, row.method, row.variant]))
    yield f"  source      {row.source}"
    yield f"  hardware    {row.hardware}"
    cost = "not known" if row.device_hours is None else f"{row.device_hours:g} device hours"
    yield f"  training    {cost} ({row.hours_source})"
    yield f"  prompts     {row.num_prompts:,} of {row.prompts}"
    for key, told in lacks(row, given):
        yield f"  lacks       {key}: {told}"
    if row.starts_from is not None:
        yield f"  starts      from the weights of the row {row.starts_from}, which are found in the results folder"
    for confounder in row.may_differ:
        yield f"  may differ  {confounder}"
    missing = [f"{key}=PATH" for key, _ in lacks(row, given)]
    if row.starts_from is not None and not any(word.startswith(f"{POLICY}=") for word in given):
        missing.append(f"{POLICY}=RUN")
    yield f"  command     {as_typed([*row.command, *given, *missing])}"
