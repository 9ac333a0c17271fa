"""The figures of images: statistics, diversity and measures of sets, of each method and over base."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from alignbench.report.comparison import ALL, MethodComparison
from alignbench.report.conflicts.differences import differences
from alignbench.report.contenders import Contender
from alignbench.report.image_measures.taken import Taken, Vectors
from alignbench.scoring.feature_rows import FeatureInfo
from alignbench.statistics.image_statistics import MEASURES
from alignbench.statistics.intervals import Comparison
from alignbench.statistics.resampling import Estimate, Resampling, Resamplings
from alignbench.statistics.sets.cmmd import Cmmd
from alignbench.statistics.sets.diversity import Distance, Diversity
from alignbench.statistics.sets.precision_recall import Precision, Recall
from alignbench.statistics.sets.set_measure import SetMeasure
from alignbench.statistics.sets.vendi import Vendi
from alignbench.statistics.significance import holm
from alignbench.store.image_statistics_table import NOT_MEASURED
from alignbench.store.manifest import BASE

NOTHING = Estimate(float("nan"), float("nan"), float("nan"))
MakeMeasure = Callable[[Sequence[ArrayLike], Sequence[tuple[str, int]], Resampling], SetMeasure]
DIVERSITY: tuple[MakeMeasure, ...] = (partial(Diversity, pairs="prompts"), partial(Diversity, pairs="noise"))
SET_MEASURES: tuple[MakeMeasure, ...] = (
    Cmmd, Vendi, partial(Distance, pairs="prompts"), partial(Distance, pairs="noise"), Precision, Recall,
)  # fmt: skip
RunsByMethod = dict[str, list[Taken]]  # by method, or by look; base or the start is called base


@dataclass(frozen=True)
class Figure:
    """One measure of one method or look, and how it differs from base or from the start; `p` as tested."""

    label: str
    kind: str
    measure: str
    version: str
    n: int
    value: Estimate
    base: float = float("nan")
    difference: Estimate = NOTHING
    p: float = float("nan")
    win_rate: Estimate = NOTHING


def adjusted(figures: Iterable[Figure]) -> list[Figure]:
    """Return figures with Holm's p-values, all of them one family."""
    figures = list(figures)
    return [replace(one, p=float(p)) for one, p in zip(figures, holm([one.p for one in figures]), strict=True)]


def image_figures(runs: RunsByMethod, resamplings: Resamplings) -> Iterator[Figure]:
    """Yield the statistics of images, one contender after the other."""
    for measure in MEASURES:
        contenders = []
        for label, taken in runs.items():
            found = [one.measurement(measure) for one in taken]
            if all(found):
                contenders.append(Contender(label, tuple(one for one in found if one)))
        if contenders and not (measure == "edge_density" and _has_several_sizes(runs)):
            yield from figures_of(MethodComparison("", contenders, resamplings), "image")


def figures_of(methods: MethodComparison, kind: str) -> Iterator[Figure]:
    """Yield the mean of each contender and how it differs from base."""
    comparisons = methods.within(ALL)
    base = next((one for one in methods.contenders if one.label == BASE), None)
    for contender in methods.contenders:
        found = comparisons.mean(contender)
        if found is None:
            continue
        figure = Figure(contender.label, kind, methods.info.evaluator, methods.info.version, *found)
        comparison = comparisons.compare(contender, base) if base and contender is not base else None
        yield replace(figure, **_over_base(methods, comparisons.mean(base, contender), comparison)) if base else figure


def _over_base(methods: MethodComparison, base: tuple[int, Estimate] | None, comparison: Comparison | None) -> dict:
    if base is None or comparison is None:
        return {}
    return {
        "base": base[1].value,
        "difference": methods.published(comparison.gain),
        "p": comparison.p_gain_weights if math.isnan(comparison.p_gain) else comparison.p_gain,
        "win_rate": comparison.win_rate,
    }


def _has_several_sizes(runs: RunsByMethod) -> bool:
    """Say whether edges were counted at several resolutions, whose figures have nothing to do with each other."""
    found = {one.edge_side for taken in runs.values() for run in taken for one in run.statistics.values()}
    return len(found - {NOT_MEASURED}) > 1


def diversity_figures(runs: RunsByMethod, resamplings: Resamplings) -> Iterator[Figure]:
    """Yield how different the colours of images are at low resolution, one contender after the other."""
    vectors = {
        label: [{key: found.thumbnail / 255 for key, found in one.statistics.items()} for one in taken]
        for label, taken in runs.items()
    }
    yield from _set_figures(runs, vectors, DIVERSITY, "diversity", resamplings)


def set_figures(runs: RunsByMethod, resamplings: Resamplings) -> Iterator[Figure]:
    """Yield the measures of images as sets, by each of the features that were computed, as far as they are alike."""
    for info in features_alike(runs)[0]:
        vectors = {
            label: [one.features[info] for one in taken]
            for label, taken in runs.items()
            if all(info in one.features for one in taken)
        }
        for figure in _set_figures(runs, vectors, SET_MEASURES, "set", resamplings):
            version = f"{figure.version}.{info.version}"
            yield replace(figure, measure=f"{figure.measure}.{info.name}", version=version)


def features_alike(runs: RunsByMethod) -> tuple[list[FeatureInfo], dict[str, str]]:
    """Return the features that sets are measured by, and why others of the same names are left out.

    Vectors of one name that come from other weights, or were computed in another precision, cannot be compared. Those
    of base are kept, or where base has none those that most runs have.

    Returns:
        The features; and by the folder of the features that are left out, in the results, a sentence.
    """
    found: dict[tuple[str, str], dict[FeatureInfo, list[tuple[str, Taken]]]] = defaultdict(lambda: defaultdict(list))
    for label, run in ((label, run) for label, taken in runs.items() for run in taken):
        for info in run.features:
            found[info.name, info.version][info].append((label, run))
    kept: list[FeatureInfo] = []
    left_out: dict[str, str] = {}
    for _, ways in sorted(found.items()):
        chosen = max(ways, key=lambda way: (any(label == BASE for label, _ in ways[way]), len(ways[way]), str(way)))
        kept.append(chosen)
        other = ways[chosen][0][1].folder
        for way, of in ways.items():
            for _, run in of if way != chosen else ():
                folder = run.folder.features / f"{way.name}@{way.version}"
                told = differences(asdict(way), asdict(chosen))
                left_out[folder.relative_to(run.folder.path.parent).as_posix()] = (
                    f"its vectors and those of {other.name} differ in {told}; delete the one of the two that you do "
                    "not want, and score its run again"
                )
    return kept, left_out


def _set_figures(
    runs: RunsByMethod,
    vectors: Mapping[str, Sequence[Vectors]],
    measures: Sequence[MakeMeasure],
    kind: str,
    resamplings: Resamplings,
) -> Iterator[Figure]:
    """Yield the figures of measures on the images that a method shares with base.

    Args:
        vectors: of the images of each method that has them, by training seed.
    """
    images = {label: set.intersection(*map(set, of_seeds)) for label, of_seeds in vectors.items()}
    for label in vectors:
        other = BASE if BASE in vectors else label
        shared = sorted(images[label] & images[other])
        if not shared:
            continue
        texts = {name: record.prompt for one in runs[label] for name, record in one.prompts.items()}
        resampling = resamplings.of(texts[prompt_id] for prompt_id, _ in shared)
        compared = dict.fromkeys((other, label))  # base alone has one entry
        rows = [np.stack([[one[key] for key in shared] for one in vectors[who]]) for who in compared]
        for make in measures:
            found = make(rows, shared, resampling)
            if not found.is_defined or (found.needs_base and other != BASE):
                continue
            n = len(shared) * len(runs[label])
            figure = Figure(label, kind, found.name, found.version, n, found.value(len(rows) - 1))
            if other != label:
                difference, p = found.over_base(1)
                figure = replace(figure, base=found.value(0).value, difference=difference, p=p)
            yield figure
