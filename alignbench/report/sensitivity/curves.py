"""What each value of a setting brought, where recipes of a method differ in that setting alone."""

from collections.abc import Sequence

from alignbench.report.columns import TableRow
from alignbench.report.comparison import ALL
from alignbench.report.labels import setting_name, setting_text
from alignbench.report.sensitivity.tried import Tried
from alignbench.report.tables import Tables

OF_LEADERBOARD = ("method", "num_seeds", "n", "win_rate_vs_base", "win_ci_low", "win_ci_high", "trained_on")


def sensitivity_rows(tables: Tables, tried: Sequence[Tried]) -> list[TableRow]:
    """Return the rows of `sensitivity.csv`: win rates over base of recipes that differ in one setting alone.

    Rows with the same values up to the column `others` are one curve, in the order of the values of its setting.
    """
    measured = {
        (row["model"], row["prompt_set"], row["evaluator"], row["version"], row["method"]): row
        for row in tables.leaderboard
        if row["group"] == ALL
    }
    found = []
    for one in tried:
        series = [(key, *of) for key in one.keys for of in one.series(key)]
        for model, prompt_set, evaluator, version in (key for key in tables.contenders if key[0] == one.model):
            where = (model, prompt_set, evaluator, version)
            for setting, others, recipes in series:
                points = [name for name in recipes if (*where, name) in measured]
                told = " ".join(f"{setting_name(key)}={setting_text(value)}" for key, value in others.items())
                found += [
                    {
                        "model": model, "prompt_set": prompt_set, "evaluator": evaluator, "version": version,
                        "recipe_of": one.method, "setting": setting, "others": told,
                        "setting_value": setting_text(one.settings[name][setting]),
                        **{column: measured[*where, name][column] for column in OF_LEADERBOARD},
                    }
                    for name in points
                    if len(points) > 1
                ]  # fmt: skip
    return found
