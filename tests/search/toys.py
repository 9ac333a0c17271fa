"""A search whose trials are computed instead of trained: `python -m tests.search.toys FOLDER NUM_TRIALS SECONDS`."""

import math
import sys
import time
from pathlib import Path

from rich.console import Console

from alignbench.search.loop import run_trials
from alignbench.search.objectives import Objective
from alignbench.search.settings import SearchSettings
from alignbench.search.space import split_words
from alignbench.search.study import Study
from alignbench.statistics.resampling import Estimate

WORDS = ["train.learning_rate=log(1e-6,1e-2)", "method.beta=choice(250,500)"]
ONE = (Objective("win_rate", "judge", "1", True, 100.0),)
TWO = (*ONE, Objective("mean", "distance", "1", False))
DEFAULT = {"train.learning_rate": 1e-6, "method.beta": "250"}


def settings(**values):
    return SearchSettings(objective=["judge"], **values)


def study(folder, objectives=ONE, words=WORDS, default=DEFAULT, what=None, **values):
    """Return the study of a toy search."""
    return Study(
        Path(folder), what or {"recipe": "toy"}, split_words(words)[1], objectives, settings(**values), default
    )


def value_of(params):
    """Return a value between 0 and 1 that is best at a rate of 1e-4 and a beta of 500."""
    distance = abs(math.log10(params["train.learning_rate"]) + 4) / 4
    return 1 - distance - (0.1 if params["method.beta"] == "250" else 0)


def measured(value):
    return Estimate(value, value - 0.05, value + 0.05)


def search(folder, seconds=0.0, of=None, **values):
    """Run the trials of a toy search, one `seconds` long; return its study."""

    def run_toy(trial, words, toy):
        toy.begin(trial, {"run": "r", "model": "m", "method": "dpo", "recipe": repr(sorted(trial.params.items()))})
        with (Path(folder) / f"begun-{trial.number}").open("a") as file:
            file.write(".")
        time.sleep(seconds)
        return (of or (lambda trial, toy: [measured(value_of(trial.params))]))(trial, toy)

    found = study(folder, **values)
    run_trials(found, ["method=dpo"], run_toy, Console(quiet=True), Path(folder))
    return found


if __name__ == "__main__":
    search(sys.argv[1], float(sys.argv[3]), num_trials=int(sys.argv[2]))
