"""The page that goes with exported weights: what they are, how they were made, what they score, how to load them."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from alignbench.report.labels import STRENGTH
from alignbench.store.run_folder import RunFolder

PLACE = "."  # where the lines of a page look unless the export is on the hub: they are run inside its folder


def loading_lines(cfg: DictConfig, denoiser: str, kind: str, pipeline_class: str, place: str = PLACE) -> str:
    """Return the lines of Python that put exported weights into their base model.

    Args:
        denoiser: attribute of the pipeline that they belong to.
        kind: `merged` or the name of the file of adapters.
        place: folder or hub id of the weights.
    """
    pipeline = cfg.model.adapter.pipeline
    if "pretrained_model_name_or_path" not in pipeline:
        first = "from alignbench.miniature.weights import load_pipeline"
        made = f'load_pipeline("{pipeline.name}")'
    else:
        first = f"from diffusers import {pipeline_class}"
        base = pipeline.pretrained_model_name_or_path
        single = f'from_single_file("{base}", config="{pipeline.config}")'
        made = f"{pipeline_class}." + (single if Path(base).is_file() else f'from_pretrained("{base}")')
    if kind == "merged":
        last = f'pipeline.{denoiser} = type(pipeline.{denoiser}).from_pretrained("{place}", subfolder="{denoiser}")'
    else:
        last = f'pipeline.load_lora_weights("{place}", weight_name="{kind}")'
    return f"{first}\n\npipeline = {made}\n{last}"


def model_card(cfg: DictConfig, name: str, lines: str, facts: list[str], run: RunFolder | None) -> str:
    """Return README.md, with the front matter that the hub reads.

    Args:
        name: of the weights.
        lines: of Python that load them.
        facts: sentences on what was exported.
        run: the run that made them, whose rows of the leaderboard are shown; None for weights made elsewhere.
    """
    base = str(cfg.model.get("pretrained_model_name_or_path", cfg.model.name))
    is_id = "pretrained_model_name_or_path" in cfg.model and not Path(base).exists()
    front = ["library_name: diffusers", "pipeline_tag: text-to-image", "tags: [alignbench]"]
    told = [f"# {name}", "", *(f"- {fact}" for fact in [f"Base model: `{base}`.", *facts]), ""]
    told += ["## Load", "", "```python", lines, "```", ""]
    if run is not None:
        told += ["## Scores", "", *_table(run), ""]
        settings = OmegaConf.to_yaml(OmegaConf.masked_copy(cfg, ["method", "train", "seed"]), resolve=True)
        told += ["## Settings", "", "```yaml", settings + "```", ""]
    told += [
        "## Licence",
        "",
        licence_note(f"These weights are made of those of `{base}`"),
    ]
    return "\n".join(["---", *([f"base_model: {base}"] if is_id else []), *front, "---", "", *told, ""])


def licence_note(origin: str) -> str:
    """Return what is said of a licence, given the beginning of the sentence, which names the weights behind it all."""
    return (
        f"{origin}, whose licence holds for them too; it may forbid uses or ask for its own text to be passed on. The "
        "data and rewards that they were trained on may add terms of their own. Say so in `license:` at the head of "
        "this page before it is published."
    )


def _table(run: RunFolder) -> list[str]:
    """Return the rows of a run in its results' leaderboard, over all prompts of each set."""
    file = run.path.parent / "leaderboard.csv"
    rows: list[dict[str, Any]] = []
    if file.exists():
        with file.open(newline="") as opened:
            rows = [row for row in csv.DictReader(opened) if row["group"] == "all" and run.name in row["run"].split()]
        rows = [row for row in rows if STRENGTH not in row["method"]]  # the weights are exported as they were trained
    return score_lines(rows)


def score_lines(rows: Iterable[Mapping[str, Any]], named_by: Sequence[str] = ()) -> list[str]:
    """Return rows of a leaderboard as a table of Markdown.

    Args:
        rows: with the columns of `LEADERBOARD_COLUMNS`, as values or as a CSV file has them.
        named_by: columns that tell the rows of several runs apart.
    """
    heads = [*named_by, "prompts", "n", "evaluator", "score [95 %]", "wins over base [95 %]", "trained on"]
    lines = []
    for row in rows:
        kind = row.get("summary", "median")  # tables of older versions have medians alone
        score = f"{kind} {_short(row[kind])} [{_short(row[f'{kind}_ci_low'])}, {_short(row[f'{kind}_ci_high'])}]"
        wins = ""
        if _short(row["win_rate_vs_base"]):
            rate, low, high = (
                f"{100 * float(row[key]):.1f}" for key in ("win_rate_vs_base", "win_ci_low", "win_ci_high")
            )
            wins = f"{rate} % [{low}, {high}]"
        trained_on = "yes" if str(row["trained_on"]) == "True" else ""
        named = [row[name] for name in named_by]
        cells = [
            *named,
            row["prompt_set"],
            row["n"],
            f"`{row['evaluator']}@{row['version']}`",
            score,
            wins,
            trained_on,
        ]
        lines.append(table_line(cells))
    return [table_line(heads), "|" + "---|" * len(heads), *lines] if lines else ["Not measured yet."]


def table_line(cells: Iterable[Any]) -> str:
    """Return a line of a table of Markdown."""
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def _short(value: Any) -> str:
    """Write a number; one that does not exist is empty in a file, and NaN or None in a row."""
    return "" if value in ("", None) or math.isnan(float(value)) else f"{float(value):.4g}"
