"""Which settings of each method were tried."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alignbench.report.labels import differing, settings
from alignbench.store.run_folder import RunFolder

Settings = dict[str, Any]  # full key -> value
Order = tuple[bool, float, str]


@dataclass(frozen=True)
class Tried:
    """The recipes of one method on one model.

    Attributes:
        method: as typed, without what tells recipes apart.
        settings: of each recipe, by its name in the tables: those settings in which recipes differ. Empty for the only
            recipe of a method, and for recipes of which the settings are not known.
    """

    model: str
    method: str
    settings: dict[str, Settings]

    @property
    def keys(self) -> list[str]:
        """The settings that differ."""
        return list(dict.fromkeys(key for one in self.settings.values() for key in one))

    def series(self, key: str) -> list[tuple[Settings, list[str]]]:
        """Return recipes that differ in one setting alone.

        Returns:
            For each combination of the other settings with two recipes or more: these settings, and the recipes in the
            order of their values.
        """
        found: dict[tuple[tuple[str, Order], ...], list[str]] = defaultdict(list)
        for recipe, values in self.settings.items():
            if key in values:
                others = tuple((other, _order(value)) for other, value in values.items() if other != key)
                found[others].append(recipe)
        return [
            (
                {other: self.settings[recipes[0]][other] for other, _ in others},
                sorted(recipes, key=lambda recipe: _order(self.settings[recipe][key])),
            )
            for others, recipes in sorted(found.items())
            if len(recipes) > 1
        ]


def _order(value: Any) -> Order:
    """Sort numbers by size, before all else."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return not is_number, float(value) if is_number else 0.0, str(value)


def tried_settings(folders: Iterable[RunFolder], labels: Mapping[str, str]) -> list[Tried]:
    """Return the recipes of each method that was trained, by model and method.

    Args:
        labels: how tables call each run, by the name of its folder.
    """
    recipes: dict[tuple[str, str], dict[str, RunFolder]] = defaultdict(dict)
    for folder in folders:
        manifest = folder.manifest
        if manifest.seed is not None:
            recipes[manifest.model, manifest.method].setdefault(labels[folder.name], folder)
    return [
        Tried(model, method, dict(zip(of, _differences(list(of.values())), strict=True)))
        for (model, method), of in sorted(recipes.items())
    ]


def _differences(folders: Sequence[RunFolder]) -> list[Settings]:
    found = [settings(folder) for folder in folders]
    keys = differing(found)
    return [{key: one[key] for key in keys if key in one} for one in found]
