"""Whether the best setting of a search beats the default one on prompts and with seeds that the search has not seen."""

from collections.abc import Sequence

from alignbench.report.comparison import MethodComparison, Resamplings
from alignbench.report.contenders import Contender, Measurement
from alignbench.report.figures import percent
from alignbench.report.tables import ScoreReader
from alignbench.search.objectives import Objective
from alignbench.search.trial_run import TrialRun
from alignbench.statistics.resampling import NUM_RESAMPLES

BEST, DEFAULT = "best", "default"


def verdict(
    report: Sequence[str], best: Sequence[str], seeds: Sequence[int], reported: str, objective: Objective
) -> str | None:
    """Return what runs of both settings on the prompts of the report show; None if some are not scored yet.

    Args:
        report: words of the default setting, without a seed.
        best: words that make it the best setting.
        seeds: training seeds of both.
        reported: name of the prompt set of the report.
    """
    reader, resamplings = ScoreReader(), Resamplings(NUM_RESAMPLES)
    contenders = []
    for label, words in ((BEST, [*report, *best]), (DEFAULT, report)):
        runs = []
        for seed in seeds:
            run = TrialRun.of([*words, f"seed={seed}"])
            found = _measured(run, reader, reported, objective)
            if found is None:
                return None
            runs.append(found)
        contenders.append(Contender(label, tuple(runs)))
    comparison = MethodComparison(reported, contenders, resamplings)
    one, other = comparison.contenders
    compared = comparison.within("all").compare(one, other)
    if compared is None:
        return None
    rate = compared.win_rate
    shown = percent(rate.value, (rate.low, rate.high))
    told = f"on prompts={reported} with seeds {', '.join(map(str, seeds))}, the best setting wins {shown} % over the "
    told += f"default settings by {objective.evaluator}: "
    if rate.low > 0.5:
        return told + "it is better"
    return told + ("it is worse" if rate.high < 0.5 else "it is not shown to be better")


def _measured(run: TrialRun, reader: ScoreReader, reported: str, objective: Objective) -> Measurement | None:
    if not run.folder.manifest_file.exists():
        return None
    wanted = (reported, run.sampling_hash, objective.evaluator, objective.version)
    for one in reader.measurements(run.folder):
        info = one.scores.info
        if (one.sampling.prompt_set, one.sampling_hash, info.evaluator, info.version) == wanted:
            return one
    return None
