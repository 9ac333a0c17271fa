"""The settings under `search`: what is maximised, how settings are drawn, and when a bad trial is stopped."""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field

from alignbench.errors import UserError, did_you_mean
from alignbench.settings.section import REQUIRED, Count, Section, Seed, setting

PREFIX = "search."
NAME = re.compile(r"[^\W_][\w.-]{0,99}")  # of a folder


class SearchSettings(Section):
    """How a search chooses."""

    objective: Annotated[list[str], Field(min_length=1)] = setting(
        REQUIRED,
        "What is improved, by the name of an evaluator: win_rate:NAME over base, mean:NAME or median:NAME. NAME alone "
        "is win_rate:NAME. A list of several gives a Pareto front.",
        expected="the name of an evaluator, as in search.objective=win_rate:shapes_oracle_agreement, or a list",
    )
    num_trials: Count = setting(20, "Trials in the end, whatever became of them. A later command can raise it.")
    sampler: Literal["tpe", "random", "grid"] = setting(
        "tpe", "How settings are drawn: by Optuna's TPE, at random, or all combinations in order."
    )
    seed: Seed = setting(0, "Seed of the draws of settings. The training seed of all trials is `seed`.")
    pruner: Literal["median", "hyperband"] | None = setting(
        None, "Which of Optuna's pruners stops bad trials by their validation values. null: none does."
    )
    name: str | None = setting(
        None, "Name of the folder in results/searches. null: method, model and a hash of the search."
    )
    report_prompts: str | None = setting(
        None, "Prompt set of the report, which the search must not see. null: the one that the model has by default."
    )
    take_over: bool = setting(
        False, "Continue trials of other machines, too. Only for processes that are known to be gone."
    )


def read_settings(words: Sequence[str]) -> SearchSettings:
    """Return the settings of words such as `search.num_trials=20`.

    Raises:
        UserError: a key is unknown or missing, or a value is not allowed.
    """
    values: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        name = key.removeprefix(PREFIX)
        if name not in SearchSettings.model_fields:
            known = [f"{PREFIX}{one}" for one in SearchSettings.model_fields]
            raise UserError(f"{key} is unknown;{did_you_mean(key, known)}")
        try:
            values[name] = yaml.safe_load(text) if equals else None
        except yaml.YAMLError:
            raise UserError(f"{word} is not understood; expected {key}=VALUE") from None
    if isinstance(one := values.get("objective"), str):
        values["objective"] = [one]
    for name in ("name", "report_prompts"):  # a name may look like a number
        if isinstance(values.get(name), int | float) and not isinstance(values[name], bool):
            values[name] = next(word for word in reversed(words) if word.startswith(f"{PREFIX}{name}="))[
                len(PREFIX) + len(name) + 1 :
            ]
    SearchSettings.check(values, PREFIX.rstrip("."))
    if "objective" not in values:
        raise UserError(
            "search.objective must be set: add the name of an evaluator that no trial trains on, as in "
            "search.objective=win_rate:shapes_oracle_agreement"
        )
    name = values.get("name")
    if name is not None and not NAME.fullmatch(name):
        raise UserError(f"search.name={name} cannot name a folder; expected letters, digits, '.', '_' and '-'")
    return SearchSettings(**values)
