"""What a search improves: a stored figure of a run by an evaluator, with its interval."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from alignbench.errors import UserError, did_you_mean
from alignbench.statistics.resampling import NUM_RESAMPLES, Estimate

if TYPE_CHECKING:
    from alignbench.evaluator import Evaluator
    from alignbench.report.contenders import Measurement
    from alignbench.store.run_folder import RunFolder

Figure = Literal["win_rate", "mean", "median"]
FIGURES: tuple[Figure, ...] = get_args(Figure)
TRIAL = "trial"  # how a trial is called beside base
COLUMNS = {  # of the leaderboard
    "win_rate": ("win_rate_vs_base", "win_ci_low", "win_ci_high"),
    "mean": ("mean", "mean_ci_low", "mean_ci_high"),
    "median": ("median", "median_ci_low", "median_ci_high"),
}


@dataclass(frozen=True)
class Objective:
    """One figure that a search improves.

    Attributes:
        evaluator, version: who scores; `evaluator` is the name in the tables.
        is_maximised: whether the higher value is the better one.
        scale: what tables multiply the figure with.
    """

    figure: Figure
    evaluator: str
    version: str
    is_maximised: bool
    scale: float = 1.0

    @property
    def name(self) -> str:
        return f"{self.figure}:{self.evaluator}"

    @property
    def direction(self) -> str:
        """The direction in Optuna's words."""
        return "maximize" if self.is_maximised else "minimize"


def read_objectives(words: Sequence[str], evaluators: "dict[str, Evaluator]") -> list[Objective]:
    """Return the objectives of words such as `win_rate:shapes_oracle_agreement`.

    Args:
        evaluators: those of the command, by their keys.

    Raises:
        UserError: a figure or an evaluator is unknown, or an objective is given twice.
    """
    found = []
    for word in words:
        figure, colon, key = word.partition(":")
        if not colon:
            figure, key = "win_rate", word
        if figure not in FIGURES:
            raise UserError(f"search.objective={word} has an unknown figure;{did_you_mean(figure, FIGURES)}")
        if key not in evaluators:
            raise UserError(
                f"search.objective={word} is not by an evaluator of this command;{did_you_mean(key, [*evaluators])}"
            )
        one = evaluators[key]
        is_maximised = figure == "win_rate" or one.higher_is_better
        scale = 100.0 if figure == "win_rate" else one.display_scale
        objective = Objective(figure, one.name, one.version, is_maximised, scale)
        if objective in found:
            raise UserError(f"search.objective={word} is given twice; give it once")
        found.append(objective)
    return found


def is_scored(run: "RunFolder", prompt_set: str, sampling_hash: str, objectives: Sequence[Objective]) -> bool:
    """Say whether all scores of a run that the objectives need are stored."""
    if not run.manifest_file.exists():
        return False
    files = (run.score_file(prompt_set, sampling_hash, one.evaluator, one.version) for one in objectives)
    return all(run.recorded(file) is not None and file.exists() for file in files)


def measure(
    run: "RunFolder", base: "RunFolder", prompt_set: str, sampling_hash: str, objectives: Sequence[Objective]
) -> list[Estimate]:
    """Return the figures of a run, as the leaderboard shows them.

    Args:
        base: the run of the untouched model, scored on the same prompts.

    Raises:
        UserError: scores are missing or have changed since they were written, or the evaluator left prompts out.
    """
    from alignbench.report.comparison import ALL, MethodComparison, Resamplings
    from alignbench.report.contenders import Contender
    from alignbench.report.tables import ScoreReader
    from alignbench.store.manifest import BASE

    reader, resamplings = ScoreReader(), Resamplings(NUM_RESAMPLES)

    def scores(folder: "RunFolder", objective: Objective, sampling: str) -> "Measurement":
        wanted = (prompt_set, sampling, objective.evaluator, objective.version)
        for one in reader.measurements(folder):
            if (
                one.sampling.prompt_set,
                one.sampling_hash,
                one.scores.info.evaluator,
                one.scores.info.version,
            ) == wanted:
                return one
        raise UserError(
            f"{folder.path} has no scores by {objective.evaluator} of prompts={prompt_set}; choose another "
            "search.objective, or prompts that it can judge"
        )

    found = []
    for objective in objectives:
        own = scores(run, objective, sampling_hash)
        contenders = [Contender(BASE, (scores(base, objective, own.compared_sampling),)), Contender(TRIAL, (own,))]
        comparison = MethodComparison(prompt_set, contenders, resamplings)
        of_base, of_trial = comparison.contenders
        within = comparison.within(ALL)
        row = within.row(of_trial, within.compare(of_trial, of_base))
        assert row is not None
        found.append(Estimate(*(float(row[column]) for column in COLUMNS[objective.figure])))
    return found
