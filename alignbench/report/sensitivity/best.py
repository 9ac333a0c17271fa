"""The best setting of each method, within a budget that all methods have."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from alignbench.report.columns import TableRow
from alignbench.report.comparison import ALL
from alignbench.report.contenders import Contender
from alignbench.report.sensitivity.tried import Tried
from alignbench.report.tables import Tables
from alignbench.statistics.best_of import BestOf, best_of
from alignbench.statistics.resampling import NUM_RESAMPLES, Resampling
from alignbench.store.manifest import BASE

UNITS = {  # by the name of a column of the leaderboard
    "network_passes": "network passes",
    "optimizer_steps": "updates",
    "samples_seen": "samples",
    "device_hours": "device-hours",
}
ANY = "any"
SLACK = 1.05  # clocks differ a little between runs of the same settings


@dataclass(frozen=True)
class Budget:
    """What a method may have spent.

    Attributes:
        unit: a key of `UNITS`, or `ANY`.
        limit: the largest amount that each of the methods has a run of; infinite for `ANY`.
    """

    unit: str
    limit: float

    def allows(self, row: TableRow) -> bool:
        """Whether a row of the leaderboard cost no more than this; rows of unknown cost did not."""
        return self.unit == ANY or 0 < row[self.unit] <= SLACK * self.limit


def best_settings(tables: Tables, tried: Sequence[Tried], num_resamples: int = NUM_RESAMPLES) -> list[TableRow]:
    """Return the rows of `best_settings.csv`; none for models of which each method has one recipe.

    Polls have none: their preferences are of pairs of methods, and a choice on half of the prompts needs scores.
    """
    rows = []
    for (model, prompt_set, *evaluator), contenders in tables.contenders.items():
        key = (model, prompt_set, evaluator[0], evaluator[1])
        of_model = [one for one in tried if one.model == model]
        if key in tables.polls or not any(one.keys for one in of_model) or contenders[0].label != BASE:
            continue
        rows += _rows(tables, key, contenders, of_model, num_resamples)
    return rows


def _rows(
    tables: Tables,
    key: tuple[str, str, str, str],
    contenders: Sequence[Contender],
    tried: Sequence[Tried],
    num_resamples: int,
) -> Iterator[TableRow]:
    of_recipe = {
        row["method"]: row
        for row in tables.leaderboard
        if (row["model"], row["prompt_set"], row["evaluator"], row["version"], row["group"]) == (*key, ALL)
    }
    measured = {one.method: [name for name in one.settings if name in of_recipe] for one in tried}
    measured = {method: recipes for method, recipes in measured.items() if recipes}
    wins = _Wins(contenders, higher_is_better=tables.evaluators[key[2], key[3]].higher_is_better)
    chosen: dict[tuple[str, ...], BestOf | None] = {}
    for budget in _budgets(of_recipe, measured):
        for method, recipes in measured.items():
            candidates = tuple(name for name in recipes if budget.allows(of_recipe[name]))
            if candidates not in chosen:
                chosen[candidates] = wins.best_of(candidates, num_resamples)
            yield {
                "model": key[0], "prompt_set": key[1], "evaluator": key[2], "version": key[3],
                "budget_unit": budget.unit, "budget_limit": budget.limit if math.isfinite(budget.limit) else None,
                "recipe_of": method, "num_settings": len(candidates),
                **_best_row(candidates, chosen[candidates], of_recipe, budget, wins),
            }  # fmt: skip


def _best_row(
    candidates: Sequence[str],
    found: BestOf | None,
    of_recipe: Mapping[str, TableRow],
    budget: Budget,
    wins: "_Wins",
) -> TableRow:
    """Return the figures of the best of some recipes; empty where none is within the budget, or none met base."""
    if found is None:
        names = (
            "method", "budget", "num_seeds", "seed_sd_win_rate", "win_rate_vs_base", "win_ci_low", "win_ci_high",
            "other_prompts_win_rate", "other_prompts_ci_low", "other_prompts_ci_high", "trained_on",
        )  # fmt: skip
        return dict.fromkeys(names)
    row = of_recipe[candidates[found.best]]
    crossed = found.on_other_prompts
    return {
        "method": row["method"],
        "budget": None if budget.unit == ANY else row[budget.unit],
        "num_seeds": row["num_seeds"],
        "seed_sd_win_rate": wins.spread(row["method"]),
        **{name: row[name] for name in ("win_rate_vs_base", "win_ci_low", "win_ci_high")},
        "other_prompts_win_rate": crossed.value,
        "other_prompts_ci_low": crossed.low,
        "other_prompts_ci_high": crossed.high,
        "trained_on": row["trained_on"],
    }


def _budgets(of_recipe: Mapping[str, TableRow], measured: Mapping[str, Sequence[str]]) -> list[Budget]:
    """Return no limit, and in each unit the largest amount that every method of known cost has a run of."""
    found = [Budget(ANY, math.inf)]
    for unit in UNITS:
        largest = [max(of_recipe[name][unit] for name in recipes) for recipes in measured.values()]
        known = [amount for amount in largest if amount > 0]
        if known:
            found.append(Budget(unit, min(known)))
    return found


class _Wins:
    """The images that recipes won over base by one evaluator.

    Args:
        contenders: base first.
    """

    def __init__(self, contenders: Sequence[Contender], higher_is_better: bool) -> None:
        self.base, self.sign = contenders[0], 1 if higher_is_better else -1
        self.contenders = {one.label: one for one in contenders}

    def best_of(self, recipes: Sequence[str], num_resamples: int) -> BestOf | None:
        """Choose among recipes on the prompts that all of them and base have; None where there are no two of these."""
        if not recipes:
            return None
        images = sorted(set.intersection(*(self.contenders[one].image_set for one in recipes), self.base.image_set))
        prompts = self.base.runs[0].prompts
        texts = [prompts[prompt_id].prompt for prompt_id, _ in images]
        if len(set(texts)) < 2:
            return None
        return best_of([self._won(one, images) for one in recipes], Resampling(texts, num_resamples))

    def spread(self, recipe: str) -> float | None:
        """Return the standard deviation of the win rates of the training seeds of a recipe; None for a single seed."""
        contender = self.contenders[recipe]
        won = self._won(recipe, sorted(contender.image_set & self.base.image_set))
        return float(won.mean(axis=1).std(ddof=1)) if len(won) > 1 else None

    def _won(self, recipe: str, images: Sequence[tuple[str, int]]) -> np.ndarray:
        gains = self.sign * (self.contenders[recipe].scores(images) - self.base.scores(images))
        return np.where(gains == 0, 0.5, gains > 0)
