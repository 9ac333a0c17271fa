"""What a tracker is told of a run in the end: its rows of the tables, and its pictures."""

from collections.abc import Sequence
from pathlib import Path

from alignbench.generation.generate import Sampling
from alignbench.report.columns import P_VALUES
from alignbench.report.labels import strength_label
from alignbench.report.tables import Tables
from alignbench.store.run_folder import RunFolder
from alignbench.training.tracking import Tracking

COLUMNS = ("prompt_set", "evaluator", "n", "median", "mean", "win_rate_vs_base", "win_ci_low", "win_ci_high", *P_VALUES)


def track_results(
    tracking: Tracking, folder: RunFolder, sampling: Sampling, tables: Tables, pictures: Sequence[Path]
) -> None:
    """Send what the report says of a run to its tracker, and close that."""
    step = folder.manifest.budget.optimizer_steps
    label = tables.labels[folder.name] + strength_label(sampling.strength, sampling.strength_kind)
    rows = (row for row in tables.leaderboard if row["group"] == "all")
    told = [row for row in rows if (row["run"], row["method"]) == (folder.name, label)]
    for row in told:
        name = f"eval/{row['prompt_set']}/{row['evaluator']}"
        tracking.log({f"{name}/{key}": row[key] for key in (row["summary"], "win_rate_vs_base")}, step)
    tracking.table("eval/table", COLUMNS, [[row[column] for column in COLUMNS] for row in told], step)
    for picture in pictures:
        tracking.picture(f"report/{picture.stem}", picture, step)
    tracking.finish()
