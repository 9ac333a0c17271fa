"""Let a process run trials one after the other, and store what each came to, or why it came to nothing."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from alignbench.errors import DivergedError, RunError, StopRequested, UserError
from alignbench.search.study import Study
from alignbench.statistics.resampling import Estimate
from alignbench.terminal.endings import tell_failure
from alignbench.terminal.machine import of_the_machine
from alignbench.terminal.signals import asked_to_end
from alignbench.text import duration

TrialRunner = Callable[[FrozenTrial, Sequence[str], Study], list[Estimate]]  # trial, words of its command, its study
MOST_FAILURES = 3  # in a row; then something else than the settings is wrong


class Pruned(Exception):
    """A pruner stops the run of a trial; its last checkpoint stays."""


def run_trials(study: Study, words: Sequence[str], run_trial: TrialRunner, console: Console, results: Path) -> None:
    """Run trials until none is left for this process.

    Args:
        words: those that all trials share.
        run_trial: makes the run of a trial, and returns its figures.
        results: the folder that a file about a defect goes to.

    Raises:
        UserError: a command that cannot be run, or three trials failed one after the other.
    """
    began, done, failures = time.monotonic(), 0, 0
    while (trial := study.claim()) is not None:
        values = study.space.words(trial.params)
        told = f"trial {trial.number + 1} of {study.num_trials}: {' '.join(values)}"
        console.print(told + _time_left(began, done, study), soft_wrap=True)
        failures = failures + 1 if run_one(trial, [*words, *values], study, run_trial, console, results) else 0
        study.write_table()
        done += 1
        if failures == MOST_FAILURES:
            raise UserError(
                f"{MOST_FAILURES} trials failed one after the other, as told above; mend that, and repeat the command "
                "with a higher search.num_trials"
            )


def run_one(
    trial: FrozenTrial, words: Sequence[str], study: Study, run_trial: TrialRunner, console: Console, results: Path
) -> bool:
    """Run one trial and store what it came to; say whether it failed.

    Raises:
        UserError: its command is wrong, which the search as a whole has to say.
    """
    began = time.monotonic()

    def end(state: TrialState, reason: str) -> None:
        study.end(trial, state, reason, time.monotonic() - began)
        ended = "stopped early" if state == TrialState.PRUNED else "failed"
        console.print(f"  {ended}: {reason}", soft_wrap=True)

    try:
        figures = run_trial(trial, words, study)
    except (Pruned, DivergedError) as reason:  # its settings are bad
        end(TrialState.PRUNED, str(reason))
        return False
    except RunError as reason:
        end(TrialState.FAIL, str(reason))
        return True
    except UserError:
        raise
    except Exception as error:  # the other trials need not fail
        if of_the_machine(error) is None and (signum := asked_to_end()) is not None:
            raise StopRequested(signum) from None
        tell_failure(error, results, f"trial {trial.number + 1}")
        end(TrialState.FAIL, f"{type(error).__name__}: {' '.join(str(error).split())}")
        return True
    study.complete(trial, figures, time.monotonic() - began)
    told = (
        f"{one.name} {one.scale * figure.value:.4g} [{one.scale * figure.low:.4g}, {one.scale * figure.high:.4g}]"
        for one, figure in zip(study.objectives, figures, strict=True)
    )
    console.print(f"  {', '.join(told)}", soft_wrap=True)
    return False


def _time_left(began: float, done: int, study: Study) -> str:
    """Say how long a search will take, at the pace of this process."""
    if not done:
        return ""
    so_far = time.monotonic() - began
    left = study.num_trials - sum(one.state.is_finished() for one in study.trials())
    return f"  ({duration(so_far)} so far, about {duration(so_far / done * left)} left)"
