"""The columns of the tables that a report writes, in their order, and how to read such a table back."""

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench.errors import UserError
from alignbench.store.manifest import Budget

if TYPE_CHECKING:
    import pandas as pd

TableRow = dict[str, Any]  # column -> value

STOPPED_AT = "stopped_at"  # the last column of tables with a run that was measured look by look, and of no others
P_VALUES = ("p_win", "p_gain", "p_win_weights", "p_gain_weights")
BUDGET_COLUMNS = tuple(field.name for field in fields(Budget))
LEADERBOARD_COLUMNS = (
    "model", "method", "run", "num_seeds", "seed_sd", "prompt_set", "group", "evaluator", "version", "n", "subset",
    "summary", "median", "median_ci_low", "median_ci_high", "mean", "mean_ci_low", "mean_ci_high",
    "win_rate_vs_base", "win_ci_low", "win_ci_high", *P_VALUES, "trained_on", "start", *BUDGET_COLUMNS,
)  # fmt: skip
WIN_RATE_COLUMNS = (
    "model", "prompt_set", "group", "evaluator", "version", "method_a", "method_b", "n", "wins", "ties",
    "win_rate", "ci_low", "ci_high", *P_VALUES,
)  # fmt: skip
RANKING_COLUMNS = (
    "model", "prompt_set", "group", "evaluator", "version", "method", "rank", "strength", "ci_low", "ci_high",
    "fit_gap", "intransitive",
)  # fmt: skip
DIAGNOSTIC_COLUMNS = (
    "model", "method", "run", "num_seeds", "prompt_set", "step", "kind", "measure", "version", "role", "n",
    "value", "ci_low", "ci_high", "base", "difference", "difference_ci_low", "difference_ci_high", "p",
    "win_rate", "win_ci_low", "win_ci_high", "flag",
)  # fmt: skip
TURNING_POINT_COLUMNS = (
    "model", "method", "run", "num_seeds", "prompt_set", "evaluator", "version", "trained_on", "n", "points",
    "peak_passes", "peak_passes_low", "peak_passes_high", "end_passes", "peak_win_rate", "end_win_rate",
    "drop", "drop_ci_low", "drop_ci_high", "turned",
)  # fmt: skip
GUIDANCE_COLUMNS = (
    "model", "method", "run", "num_seeds", "prompt_set", "evaluator", "version", "trained_on", "guidance_scale",
    "base_guidance_scale", "best", "n", "win_rate", "ci_low", "ci_high",
)  # fmt: skip
COMPARER_COLUMNS = (
    "model", "prompt_set", "evaluator", "version", "method_a", "method_b", "calls", "pairs", "failures", "ties",
    "first_rate", "consistent", "always_first", "always_second", "position", "position_ci_low", "position_ci_high",
    "win_rate", "win_rate_least", "win_rate_most", "tokens_read", "tokens_written", "seconds",
)  # fmt: skip
SENSITIVITY_COLUMNS = (
    "model", "prompt_set", "evaluator", "version", "recipe_of", "setting", "others", "setting_value", "method",
    "num_seeds", "n", "win_rate_vs_base", "win_ci_low", "win_ci_high", "trained_on",
)  # fmt: skip
BEST_SETTING_COLUMNS = (
    "model", "prompt_set", "evaluator", "version", "budget_unit", "budget_limit", "recipe_of", "num_settings", "method",
    "budget", "num_seeds", "seed_sd_win_rate", "win_rate_vs_base", "win_ci_low", "win_ci_high",
    "other_prompts_win_rate", "other_prompts_ci_low", "other_prompts_ci_high", "trained_on",
)  # fmt: skip
TRIED = "tried"  # a column of the leaderboard where searches were made: how many settings of the method they tried
CARD_COLUMNS = (
    "evaluator", "version", "weights", "data", "published", "of_people", "pairs_digest", "protocol", "pairs", "prompts",
    "ties", "in_domain", "accuracy", "ci_low", "ci_high", "mean_of_prompts", "own_rule", "rule_hpsv2", "rule_pickscore",
    "rule_imagereward", "rule_genai_bench_li", "rule_genai_bench_jiang", "rule_mmrb2", "calibration_error",
    "calibration_by_chance", "first_rate",
)  # fmt: skip
ASCENT_COLUMNS = (
    "data", "levels", "steps", "images", "raised", "raised_version", "scorer", "in_lineage", "gain", "control", "won",
)  # fmt: skip
QUESTION_COLUMNS = (
    "model", "method", "run", "num_seeds", "prompt_set", "evaluator", "version", "category", "n", "questions",
    "mean", "ci_low", "ci_high",
)  # fmt: skip
# Those that hold no number: text, and True or False.
TEXT_COLUMNS = frozenset(
    (
        "model", "method", "method_a", "method_b", "run", "start", "prompt_set", "group", "evaluator", "version",
        "intransitive", "kind", "measure", "role", "flag", "budget_unit", "recipe_of", "setting", "others",
        "setting_value", "summary", "category", STOPPED_AT,
    )
)  # fmt: skip
TRUTH_COLUMNS = frozenset(("subset", "trained_on", "turned", "best"))


def read_table(path: Path) -> "pd.DataFrame":
    """Return a table that a report wrote. Text stays text, also where a method is called "NA" and a version "1".

    Raises:
        UserError: it is damaged.
    """
    try:
        return _read_table(path)
    except (OSError, ValueError, TypeError) as error:  # those of pandas' parser are ValueErrors
        raise UserError(f"{path} is damaged ({str(error).splitlines()[0]}); write the report again") from None


def _read_table(path: Path) -> "pd.DataFrame":
    import pandas as pd

    names = pd.read_csv(path, nrows=0).columns
    numbers = [name for name in names if name not in TEXT_COLUMNS]
    table = pd.read_csv(
        path,
        dtype={name: str for name in names if name in TEXT_COLUMNS},
        keep_default_na=False,
        na_values={name: [""] for name in numbers},
    )
    return table.astype({name: "boolean" for name in names if name in TRUTH_COLUMNS})
