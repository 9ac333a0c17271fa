"""The trials of a search, kept in Optuna's journal: who runs which, what they came to, and which settings are next.

One line of the journal is one event, and a trial with all its values is one line. Processes take turns by a lock that
the system releases when its holder is killed. A line that a kill has cut is removed before the next one is written.
"""

import hashlib
import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from alignbench.data.sources.labels import number_or_nan
from alignbench.errors import UserError
from alignbench.files import locked
from alignbench.reading import check_record
from alignbench.search.objectives import Objective
from alignbench.search.settings import SearchSettings
from alignbench.search.space import Space, Value
from alignbench.statistics.resampling import Estimate
from alignbench.store.search_record import FIXED, write_trials
from alignbench.store.training_lock import Holder

JOURNAL = "study.jsonl"
STUDY = "search"  # name of the only study of a journal
HOLDER, RUN, FIGURES, REASON, SECONDS = "holder", "run", "figures", "reason", "seconds"  # attributes of a trial
WHAT = "what"  # attribute of the study

LEAST_FOR_IMPORTANCE = 8  # trials; fewer say nothing

# what Optuna and its readers raise of a journal that others have changed
DAMAGE = (ValueError, LookupError, TypeError, AttributeError, AssertionError, ArithmeticError, RecursionError)

optuna.logging.set_verbosity(optuna.logging.WARNING)
EXPERIMENTAL = optuna.exceptions.ExperimentalWarning  # its importance, and TPE for several processes


class _Turn(JournalFileOpenLock):
    """The turn of a process to write into the journal. Unlike Optuna's locks, it ends with its process."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._held: Any = None

    def acquire(self) -> bool:
        self._held = locked(self.file.with_name(f".{self.file.name}.lock"))
        self._held.__enter__()
        content = self.file.read_bytes()
        if content and not content.endswith(b"\n"):
            with self.file.open("r+b") as opened:
                opened.truncate(content.rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        self._held.__exit__(None, None, None)


class Study:
    """The trials of one search.

    Args:
        folder: of the search, in `results/searches`.
        what: what the search is, in plain values. Another search cannot use the same folder.
        default: the values of the configuration, which the first trial has; None if the space does not have them.

    Raises:
        UserError: the folder holds another search, or a damaged one.
    """

    def __init__(
        self,
        folder: Path,
        what: Mapping[str, Any],
        space: Space,
        objectives: Sequence[Objective],
        settings: SearchSettings,
        default: Mapping[str, Value] | None,
    ) -> None:
        self.folder, self.space, self.objectives, self.settings = folder, space, list(objectives), settings
        self.default = default
        self.cells = space.cells() if settings.sampler == "grid" else None
        self.holder = Holder.of_this_process()
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / JOURNAL
        with self._alone(), _readable(file):
            storage = optuna.storages.JournalStorage(JournalFileBackend(str(file), _Turn(file)))
            self.study = optuna.create_study(
                storage=storage,
                sampler=optuna.samplers.RandomSampler(seed=0),  # never asked: `next_values` draws
                pruner=make_pruner(settings),
                study_name=STUDY,
                directions=[one.direction for one in self.objectives],
                load_if_exists=True,
            )
            self._refuse_another(what)
            self._check(self.trials())

    @property
    def num_trials(self) -> int:
        """Number of trials in the end: a grid has no more than its cells."""
        return self.settings.num_trials if self.cells is None else min(self.settings.num_trials, len(self.cells))

    def trials(self) -> list[FrozenTrial]:
        """Return all trials in their order, as they are now."""
        return self.study.get_trials(deepcopy=False)

    def claim(self) -> FrozenTrial | None:
        """Return the trial that this process runs next: one that a killed process has left, or a new one.

        None if no trial is left for it; other processes may still run some.
        """
        with self._alone():
            trials = self.trials()
            for trial in trials:
                if trial.state == TrialState.RUNNING and self._is_free(trial):
                    self._note(trial, HOLDER, asdict(self.holder))
                    return trial
            if len(trials) >= self.num_trials:
                return None
            new = optuna.create_trial(
                state=TrialState.RUNNING,
                params=self.next_values(trials),
                distributions=self.space.distributions(),
                user_attrs={HOLDER: asdict(self.holder)},
            )
            self.study.add_trial(new)
            return self.trials()[-1]

    def next_values(self, trials: Sequence[FrozenTrial]) -> dict[str, Value]:
        """Return the values of the trial that follows others.

        They depend on the seed, the number of the trial and the others alone, so a killed search goes on as it would
        have without the kill.
        """
        number = len(trials)
        if self.cells is not None:
            return self.cells[number]
        if number == 0 and self.default is not None:
            return dict(self.default)
        known = self._in_memory(trials)
        drawn = known.ask(self.space.distributions()).params
        return {one.key: one.rounded(drawn[one.key]) for one in self.space.settings}

    def report(self, trial: FrozenTrial, look: int, value: float) -> bool:
        """Store a validation value of a trial; say whether the pruner stops it.

        Args:
            look: number of the validation; that of the start is 0.
        """
        with self._alone():
            known = self.trials()[trial.number].intermediate_values
            if look not in known:
                self._trial(trial).report(value, look)
            return self.study.pruner.prune(self.study, self.trials()[trial.number])

    def begin(self, trial: FrozenTrial, run: Mapping[str, str]) -> None:
        """Note the run of a trial.

        Args:
            run: its name, model, method and recipe.
        """
        with self._alone():
            self._note(trial, RUN, dict(run))

    def complete(self, trial: FrozenTrial, figures: Sequence[Estimate], seconds: float) -> None:
        """Store what a trial came to."""
        with self._alone():
            self._note(trial, FIGURES, [asdict(one) for one in figures])
            self._note(trial, SECONDS, seconds)
            self.study.tell(trial.number, [one.value for one in figures])

    def end(self, trial: FrozenTrial, state: TrialState, reason: str, seconds: float) -> None:
        """Store that a trial has no value: PRUNED if its settings are bad, FAIL if the machine could not run them."""
        with self._alone():
            self._note(trial, REASON, reason)
            self._note(trial, SECONDS, seconds)
            self.study.tell(trial.number, state=state)

    def best(self) -> list[int]:
        """Return the numbers of the best trials: one, or with several objectives those that no other one dominates."""
        done = [one for one in self.trials() if one.state == TrialState.COMPLETE]
        if not done:
            return []
        if len(self.objectives) > 1:
            return sorted(one.number for one in self.study.best_trials)
        return [self.study.best_trial.number]

    def default_trial(self) -> int | None:
        """Return the number of the trial with the values of the configuration; None if no trial has them."""
        return next((one.number for one in self.trials() if one.params == self.default), None)

    def importance(self) -> dict[str, float]:
        """Return how much each setting matters, by PED-ANOVA.

        Empty for several objectives, for few trials, and for trials that are all alike.
        """
        done = [one for one in self.trials() if one.state == TrialState.COMPLETE]
        if len(self.objectives) > 1 or len(self.space.settings) < 2 or len(done) < LEAST_FOR_IMPORTANCE:
            return {}
        if len({one.value for one in done}) < 2:  # Optuna would give all settings the same share
            return {}
        with warnings.catch_warnings(action="ignore", category=EXPERIMENTAL):
            evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        return optuna.importance.get_param_importances(self.study, evaluator=evaluator)

    def write_table(self) -> None:
        """Write `trials.csv`."""
        with self._alone():
            columns = [f"{one.name}{end}" for one in self.objectives for end in ("", "_ci_low", "_ci_high")]
            columns += [one.key for one in self.space.settings if one.key not in FIXED]
            write_trials(self.folder, columns, [self._row(one) for one in self.trials()])

    def _row(self, trial: FrozenTrial) -> dict[str, Any]:
        attributes = trial.user_attrs
        row: dict[str, Any] = {"trial": trial.number + 1, "state": trial.state.name.lower(), **trial.params}
        row |= {name: attributes.get(RUN, {}).get(name) for name in ("run", "model", "method", "recipe")}
        row |= {name: attributes.get(name) for name in (SECONDS, REASON)}
        for place, objective in enumerate(self.objectives):
            one = figures_of(trial)[place] if FIGURES in attributes else Estimate(math.nan, math.nan, math.nan)
            row |= {
                objective.name: one.value,
                f"{objective.name}_ci_low": one.low,
                f"{objective.name}_ci_high": one.high,
            }
        return row

    def held_elsewhere(self) -> list[tuple[FrozenTrial, Holder]]:
        """Return the trials that other processes run, or that processes of other machines have left."""
        running = [one for one in self.trials() if one.state == TrialState.RUNNING]
        return [(one, _holder_of(one)) for one in running]

    def _is_free(self, trial: FrozenTrial) -> bool:
        holder = _holder_of(trial)
        is_elsewhere = not holder.is_near(self.holder)
        return holder.is_gone(self.holder) or (self.settings.take_over and is_elsewhere)

    def _trial(self, trial: FrozenTrial) -> optuna.Trial:
        return optuna.Trial(self.study, trial._trial_id)

    def _note(self, trial: FrozenTrial, name: str, value: Any) -> None:
        self._trial(trial).set_user_attr(name, value)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with locked(self.folder / ".lock"):
            yield

    def _refuse_another(self, what: Mapping[str, Any]) -> None:
        found = self.study.user_attrs.get(WHAT)
        if found is None:
            self.study.set_user_attr(WHAT, dict(what))
        elif changed := [key for key in what if found.get(key) != json.loads(json.dumps(what[key]))]:
            raise UserError(
                f"{self.folder} holds a search with other {' and '.join(changed)}; choose another search.name, or "
                "repeat the command of that search"
            )

    def _check(self, trials: Sequence[FrozenTrial]) -> None:
        """Refuse trials that nobody can go on from: Optuna reads whatever values a line has.

        Raises:
            UserError, ValueError: something is wrong in one.
        """
        if [one.name.lower() for one in self.study.directions] != [one.direction for one in self.objectives]:
            raise ValueError("its objectives have other directions")
        self._in_memory(trials)  # which Optuna checks as it adds them
        for trial in trials:
            named = f"trial {trial.number + 1}"
            check_record(_Notes, trial.user_attrs, named)
            if trial.distributions != self.space.distributions():
                raise ValueError(f"{named} has other settings than the search")
            seen = [*trial.intermediate_values.values(), *(trial.values or ())]
            if not all(isinstance(one, int | float) and math.isfinite(number_or_nan(one)) for one in seen):
                raise ValueError(f"{named} has a value that is no number")
            if trial.state == TrialState.RUNNING:
                _holder_of(trial)
            num = len(self.objectives)
            if trial.state == TrialState.COMPLETE and not len(trial.values or ()) == len(figures_of(trial)) == num:
                raise ValueError(f"{named} has no figure of each objective")

    def _in_memory(self, trials: Sequence[FrozenTrial]) -> optuna.Study:
        """Return a study of some trials that is in no file, which draws the trial that follows them."""
        known = optuna.create_study(
            sampler=make_sampler(self.settings, len(trials)),
            pruner=make_pruner(self.settings),
            study_name=STUDY,
            directions=[one.direction for one in self.objectives],
        )
        known.add_trials(trials)
        return known


@dataclass(frozen=True)
class _Notes:
    """The attributes of a trial."""

    holder: dict[str, Any] | None = None
    run: dict[str, str] | None = None
    figures: list[Estimate] = field(default_factory=list)
    reason: str | None = None
    seconds: float | None = None


def _holder_of(trial: FrozenTrial) -> Holder:
    return Holder.of_json(trial.user_attrs.get(HOLDER) or {}, f"trial {trial.number + 1}")


def figures_of(trial: FrozenTrial) -> list[Estimate]:
    """Return the figures of a finished trial, in the order of the objectives."""
    return [Estimate(**one) for one in trial.user_attrs.get(FIGURES, ())]


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Say which file is damaged where Optuna only says what is wrong in it."""
    try:
        yield
    except UserError:
        raise
    except DAMAGE as error:
        raise UserError(
            f"{file} is damaged ({' '.join(str(error).split())}); put the right file back, or choose another "
            "search.name"
        ) from None


def make_sampler(settings: SearchSettings, number: int) -> optuna.samplers.BaseSampler:
    """Return the sampler of the trial with a number. Each has a seed of its own, whatever was drawn before."""
    digest = hashlib.sha256(f"{settings.seed}/{number}".encode()).digest()
    seed = int.from_bytes(digest[:4], "little")
    if settings.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings(action="ignore", category=EXPERIMENTAL):
        # of trials that run at the same time, the later ones keep away from the others
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True)


def make_pruner(settings: SearchSettings) -> optuna.pruners.BasePruner:
    """Return the pruner that the settings name."""
    if settings.pruner == "median":
        return optuna.pruners.MedianPruner()
    return optuna.pruners.HyperbandPruner() if settings.pruner == "hyperband" else optuna.pruners.NopPruner()
