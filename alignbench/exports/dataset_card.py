"""The page that goes with exported images: how they were made, what they score, what each column holds."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import yaml

from alignbench.exports.command import command_of
from alignbench.exports.model_card import licence_note, score_lines, table_line
from alignbench.report.comparison import ALL
from alignbench.report.tables import Tables
from alignbench.store.run_folder import RunFolder

SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
COLUMNS = {
    "model": "the base model",
    "method": "the method that trained it; `base` for the untouched model",
    "run": "name of the run",
    "seed": "training seed; null for the untouched model",
    "prompt_set": "name of the prompt set",
    "prompt_id": "name of the prompt in its set",
    "prompt": "the prompt",
    "groups": "groups that the prompt belongs to",
    "image_number": "number of the image within its prompt, counted from 0",
    "image": "the image",
    "sampling": "how it was sampled, as JSON",
}


def dataset_card(
    name: str,
    place: str,
    runs: Sequence[RunFolder],
    counts: Mapping[str, int],
    scores: Iterable[str],
    tables: Tables,
    files: str,
) -> str:
    """Return README.md of a data set of images, with the front matter that the hub and `datasets` read.

    Args:
        place: folder or hub id that the lines of the page load from.
        counts: number of images by run.
        scores: names of the columns of scores.
        tables: of the same runs.
        files: pattern of the Parquet files.
    """
    shown = [run for run in runs if counts[run.name]]
    number = sum(counts.values())
    front = {
        "task_categories": ["text-to-image"],
        "tags": ["alignbench"],
        "size_categories": [next((size for limit, size in SIZES if number < limit), "n>10M")],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": files}]}],
    }
    rows = [row for row in tables.leaderboard if row["group"] == ALL]
    columns = {**COLUMNS, **{column: _meaning(column, tables) for column in scores}}
    lines = [
        "---", yaml.safe_dump(front, sort_keys=False) + "---", "",
        f"# {name}", "",
        f"{number} images of {len(shown)} runs of alignbench, a comparison of alignment methods.",
        "",
        "```python", "from datasets import load_dataset", "",
        f'data = load_dataset("{place}", split="train")', "```", "",
        "## Columns", "",
        table_line(["column", "content"]), "|---|---|",
        *(table_line([f"`{column}`", meaning]) for column, meaning in columns.items()), "",
        "## Runs", "",
        table_line(["run", "method", "model", "seed", "images"]), "|---|---|---|---|---|",
        *(_run_line(run, tables, counts[run.name]) for run in shown), "",
        "```bash", *_commands(shown), "```", "",
        "## Scores", "",
        *score_lines(rows, ("model", "method")), "",
        "## Licence", "",
        licence_note(f"These images were made with {_bases(shown)} or with weights that were trained from there"),
    ]  # fmt: skip
    return "\n".join([*lines, ""])


def _meaning(column: str, tables: Tables) -> str:
    for (evaluator, version), info in tables.evaluators.items():
        if column == f"score_{evaluator}_v{version}":
            direction = "higher" if info.higher_is_better else "lower"
            return f"score of `{evaluator}`, version {version}; {direction} is better"
    return "score"


def _run_line(run: RunFolder, tables: Tables, num_images: int) -> str:
    manifest = run.manifest
    seed = "" if manifest.seed is None else manifest.seed
    return table_line([f"`{run.name}`", tables.labels[run.name], manifest.model, seed, num_images])


def _commands(runs: Iterable[RunFolder]) -> list[str]:
    lines = []
    for run in runs:
        command = command_of(run)
        if command is not None:
            rest = "" if command.is_whole else ", and settings that no word of a command sets"
            lines += [f"# {run.name}{rest}", command.text]
    return lines


def _bases(runs: Iterable[RunFolder]) -> str:
    """Name the weights that the runs start from; folders, which mean nothing elsewhere, by the name of their model."""
    names = {}
    for run in runs:
        manifest = run.manifest
        weights = manifest.start_weights.get("pretrained_model_name_or_path", manifest.model)
        names[manifest.model if Path(weights).exists() or Path(weights).is_absolute() else weights] = None
    return ", ".join(f"`{name}`" for name in names)
