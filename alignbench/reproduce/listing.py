"""The table of all rows, and what is said of one before it is run."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

import yaml

from alignbench.reproduce.command import POLICY, as_typed, lacks
from alignbench.reproduce.rows import Figure, Row, figures

HEADS = ("row", "paper", "model", "expected", "device hours", "weights")
NUM_SHOWN = 2  # figures of a row in the table
UNKNOWN = "-"


def table(rows: Iterable[Row]) -> Iterator[str]:
    """Yield the lines of the table of rows."""
    cells = [(row.id, row.paper, row.model, expected(row), hours(row), at_hand(row.model)) for row in rows]
    yield from aligned([HEADS, *cells])


def expected(row: Row) -> str:
    """Return the first figures of a row, and how many more there are."""
    found = figures(row)
    told = ", ".join(f"{one.printed.evaluator} {printed(one)}" for one in found[:NUM_SHOWN])
    return told + (f" and {len(found) - NUM_SHOWN} more" if len(found) > NUM_SHOWN else "")


def printed(figure: Figure) -> str:
    """Return a figure as it is printed."""
    return f"{figure.printed.value:.{figure.decimals}f}"


def hours(row: Row) -> str:
    """Return the device hours of training."""
    return UNKNOWN if row.device_hours is None else f"{row.device_hours:g}"


def aligned(cells: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield lines whose cells stand below each other."""
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    for row in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


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
