"""How many settings searches tried of each method of the tables: more tries are an advantage."""

from collections.abc import Iterable, Mapping

from alignbench.report.columns import TRIED
from alignbench.report.tables import Tables
from alignbench.store.manifest import BASE, DATA
from alignbench.store.run_folder import RunFolder


def add_tried(tables: Tables, folders: Iterable[RunFolder], tried: Mapping[tuple[str, str], int]) -> None:
    """Add the column `tried` to the rows of the leaderboard; none without searches.

    Args:
        tried: (model, method) -> number of settings, as `alignbench.store.search_record.count_tried` counts them.
    """
    if not tried:
        return
    methods = {folder.name: folder.manifest.method for folder in folders}
    for row in tables.leaderboard:
        method = methods.get(row["run"].partition(" ")[0], BASE)  # people's votes have rows without a run
        row[TRIED] = None if method in (BASE, DATA) else tried.get((row["model"], method))
