"""The rows of `diagnostics.csv`: what a policy gained by what it trained on, and what happened to its images meanwhile.

Evaluators' means, statistics of images and their diversity, each over base, and the distance of the weights; and the
same at every look of a run's validation, over the start. Images are measured once; see
`alignbench.store.image_statistics_table`.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from alignbench.report.columns import DIAGNOSTIC_COLUMNS, TableRow
from alignbench.report.comparison import ALL, Contender, Measurement, MethodComparison, Resamplings
from alignbench.report.hacking import HELD_OUT, TRAINED, findings, p_of_gain
from alignbench.report.tables import Tables, measurements
from alignbench.statistics.diversity import Diversity, Pairs
from alignbench.statistics.image_statistics import MEASURES, VERSION, ImageStatistics
from alignbench.statistics.intervals import Comparison, Estimate
from alignbench.statistics.significance import holm
from alignbench.store.image_records import ImageKey, PromptRecord
from alignbench.store.image_statistics_table import ImageToMeasure, measured, stacked
from alignbench.store.manifest import BASE, Manifest
from alignbench.store.run_folder import RunFolder
from alignbench.store.scores import ScoreInfo, Scores, digest_of

NOTHING = Estimate(float("nan"), float("nan"), float("nan"))
DIVERSITY: dict[str, Pairs] = {"diversity_prompts": "prompts", "diversity_noise": "noise"}
WEIGHT_DISTANCE = "weight_distance"


@dataclass(frozen=True)
class Taken:
    """The images of one run on one prompt set and sampling, with all scores of them.

    Attributes:
        folder: that holds the images: of the run, or of a look at it.
    """

    folder: RunFolder
    scored: tuple[Measurement, ...]

    @cached_property
    def statistics(self) -> dict[ImageKey, ImageStatistics]:
        """What was measured of each image that was scored and is, or was then, there."""
        first = self.scored[0]
        location = (first.sampling.prompt_set, first.sampling_hash)
        images = self.folder.images(*location)
        digests: dict[ImageKey, set[str]] = defaultdict(set)
        for entry in self.scored:
            keys = zip(entry.scores.prompt_id.tolist(), entry.scores.image.tolist(), strict=True)
            for key, digest in zip(keys, entry.scores.digest.tolist(), strict=True):
                digests[key] |= {digest} - {""}  # people note no digest of what they were shown
        prompts = self.prompts
        paths = {(name, number): images / prompts[name].images[number] for name, number in digests}
        shown = {key: ImageToMeasure(path, _digest(path, digests[key])) for key, path in paths.items()}
        return measured(self.folder.statistics_file(*location), shown)

    @property
    def prompts(self) -> dict[str, PromptRecord]:
        """The prompts of all evaluators; some score only a part."""
        return {name: record for entry in self.scored for name, record in entry.prompts.items()}

    def measurement(self, measure: str) -> Measurement | None:
        """Return one statistic as if it were a score; None where an image has none."""
        column = MEASURES.index(measure)
        keys = list(self.statistics)
        values = [self.statistics[key].figures[column] for key in keys]
        if not keys or not np.isfinite(values).all():
            return None
        ids, numbers = zip(*keys, strict=True)
        scores = Scores.of(ScoreInfo(measure, VERSION), ids, numbers, values, [""] * len(keys))
        return replace(self.scored[0], scores=scores, prompts=self.prompts)


def _digest(path: Path, noted: set[str]) -> str:
    """Return the digest of an image as it was scored; where evaluators saw different files, of that which is there."""
    if len(noted) == 1 or not path.exists():
        return min(noted, default="")
    found = digest_of(path)
    return found if found in noted or not noted else min(noted)


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


def diagnose(root: Path, tables: Tables, num_resamples: int) -> list[TableRow]:
    """Return the rows of all runs under a results root, measuring the images that were not measured yet."""
    resamplings = Resamplings(num_resamples)
    rows: list[TableRow] = []
    for (model, prompt_set), runs in _runs(root, tables).items():
        figures = adjusted([*image_figures(runs, resamplings), *diversity_figures(runs, resamplings)])
        manifests = {label: [one.scored[0].manifest for one in taken] for label, taken in runs.items()}
        rows += [_row(manifests[one.label], one.label, prompt_set, one) for one in figures]
        rows += _evaluator_rows(tables, model, prompt_set)
    for name, label in tables.labels.items():
        folder = RunFolder(Path(root) / name)
        manifest = folder.manifest
        rows += _weight_rows(manifest, label, None, manifest.weight_distance)
        rows += validation_rows(folder, manifest, label, resamplings)
    return sorted(rows, key=_sort_key)


def _sort_key(row: TableRow) -> tuple:
    kinds = ("evaluator", "image", "diversity", "weights")
    prompt_set = "" if row["step"] is None else row["prompt_set"]
    return (
        row["model"], row["step"] is not None, row["method"] != BASE, row["method"], row["run"], prompt_set,
        row["prompt_set"], -1 if row["step"] is None else row["step"], kinds.index(row["kind"]), row["role"] != TRAINED,
        row["measure"], row["version"],
    )  # fmt: skip


# ---- the policies as they are


def _runs(root: Path, tables: Tables) -> dict[tuple[str, str], RunsByMethod]:
    """Gather what was scored of each run, by model and prompt set, then by method, in the order of training seeds."""
    scored: dict[tuple[str, str], dict[str, dict[str, list[Measurement]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for (model, prompt_set, *_), contenders in tables.contenders.items():
        for contender in contenders:
            for run in contender.runs:
                scored[model, prompt_set][contender.label][run.manifest.run].append(run)
    return {
        key: {
            label: [Taken(RunFolder(Path(root) / run), tuple(entries)) for run, entries in of.items()]
            for label, of in methods.items()
        }
        for key, methods in scored.items()
    }


def _evaluator_rows(tables: Tables, model: str, prompt_set: str) -> Iterator[TableRow]:
    told = {(one.model, one.prompt_set, one.method): one for one in findings(tables)}
    rows = [
        row for row in tables.leaderboard if (row["model"], row["prompt_set"], row["group"]) == (model, prompt_set, ALL)
    ]
    for row in rows:
        key = (row["evaluator"], row["version"])
        contenders = {one.label: one for one in tables.contenders[model, prompt_set, *key]}
        comparison = tables.over_base[model, prompt_set, *key].get(row["method"])
        gain = comparison.gain if comparison else NOTHING
        if comparison and not tables.evaluators[key].higher_is_better:
            gain = Estimate(-gain.value, -gain.high, -gain.low)
        figure = Figure(
            row["method"],
            "evaluator",
            *key,
            row["n"],
            Estimate(row["mean"], row["mean_ci_low"], row["mean_ci_high"]),
            _base_mean(contenders, row["method"]) if comparison else float("nan"),
            gain,
            p_of_gain(row) if comparison else float("nan"),
            Estimate(row["win_rate_vs_base"], row["win_ci_low"], row["win_ci_high"]),
        )
        finding = told.get((model, prompt_set, row["method"]))
        flag = str(finding) if finding and key in finding.evaluators else ""
        manifests = [run.manifest for run in contenders[row["method"]].runs]
        yield {**_row(manifests, row["method"], prompt_set, figure), "flag": flag}


def _base_mean(contenders: Mapping[str, Contender], method: str) -> float:
    """Return base's mean score on the images that it shares with a method."""
    images = sorted(contenders[BASE].image_set & contenders[method].image_set)
    return float(contenders[BASE].scores(images).mean())


# ---- images


def image_figures(runs: RunsByMethod, resamplings: Resamplings) -> Iterator[Figure]:
    """Yield the statistics of images, one contender after the other."""
    for measure in MEASURES:
        contenders = []
        for label, taken in runs.items():
            found = [one.measurement(measure) for one in taken]
            if all(found):
                contenders.append(Contender(label, tuple(one for one in found if one)))
        if contenders:
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


def diversity_figures(runs: RunsByMethod, resamplings: Resamplings) -> Iterator[Figure]:
    """Yield how different images are, one contender after the other."""
    images = {label: _shared_images(taken) for label, taken in runs.items()}
    for measure, pairs in DIVERSITY.items():
        for label, taken in runs.items():
            for other in ([BASE] if BASE in runs and label != BASE else []) or [label]:
                shared = sorted(images[label] & images[other])
                if not shared:
                    continue
                texts = {name: record.prompt for one in taken for name, record in one.prompts.items()}
                vectors = [np.stack([stacked(one.statistics, shared) for one in runs[who]]) for who in (other, label)]
                resampling = resamplings.of(texts[prompt_id] for prompt_id, _ in shared)
                found = Diversity(vectors, shared, resampling, pairs)
                if not found.has_pairs:
                    continue
                n = len(shared) * len(taken)
                figure = Figure(label, "diversity", measure, VERSION, n, found.value(1))
                if other != label:
                    difference, p = found.compare(1, 0)
                    figure = replace(figure, base=found.value(0).value, difference=difference, p=p)
                yield figure


def _shared_images(taken: Sequence[Taken]) -> set[ImageKey]:
    return set.intersection(*(set(one.statistics) for one in taken))


# ---- while a run trains


def validation_rows(folder: RunFolder, manifest: Manifest, label: str, resamplings: Resamplings) -> Iterator[TableRow]:
    """Yield the figures of each look at a run, over those of its start, as far as the looks are still there."""
    taken: dict[int, dict[tuple[str, str], list[Measurement]]] = {}
    for path in folder.validation_folders:
        look = RunFolder(path)
        step = int(path.name.removeprefix("step-"))
        yield from _weight_rows(manifest, label, step, look.manifest.weight_distance)
        for entry in measurements(look):
            key = (entry.sampling.prompt_set, entry.sampling_hash)
            taken.setdefault(step, defaultdict(list))[key].append(entry)
    for key in sorted({key for of in taken.values() for key in of}):
        steps = [step for step in sorted(taken) if key in taken[step]]
        names = {step: BASE if step == 0 else str(step) for step in steps}
        looks = {step: RunFolder(folder.path / "validation" / f"step-{step}") for step in steps}
        runs = {names[step]: [Taken(looks[step], tuple(taken[step][key]))] for step in steps}
        figures = adjusted(
            [
                *_scored_figures(runs, resamplings),
                *image_figures(runs, resamplings),
                *diversity_figures(runs, resamplings),
            ]
        )
        for figure in figures:
            step = 0 if figure.label == BASE else int(figure.label)
            yield _row([manifest], label, key[0], figure, step)


def _scored_figures(runs: RunsByMethod, resamplings: Resamplings) -> Iterator[Figure]:
    by_evaluator: dict[tuple[str, str], list[Contender]] = defaultdict(list)
    for label, [taken] in runs.items():
        for entry in taken.scored:
            by_evaluator[entry.scores.info.evaluator, entry.scores.info.version].append(Contender(label, (entry,)))
    for contenders in by_evaluator.values():
        yield from figures_of(MethodComparison("", contenders, resamplings), "evaluator")


# ---- rows


def adjusted(figures: Iterable[Figure]) -> list[Figure]:
    """Return figures with Holm's p-values, all of them one family."""
    figures = list(figures)
    return [replace(one, p=float(p)) for one, p in zip(figures, holm([one.p for one in figures]), strict=True)]


def _weight_rows(manifest: Manifest, label: str, step: int | None, distance: float | None) -> Iterator[TableRow]:
    if distance is not None:
        value = Estimate(distance, float("nan"), float("nan"))
        yield _row([manifest], label, "", Figure(label, "weights", WEIGHT_DISTANCE, VERSION, 1, value), step)


def _row(
    manifests: Sequence[Manifest], label: str, prompt_set: str, figure: Figure, step: int | None = None
) -> TableRow:
    role = ""
    if figure.kind == "evaluator" and label != BASE:
        role = TRAINED if any(figure.measure in one.trained_on for one in manifests) else HELD_OUT
    row = {
        "model": manifests[0].model,
        "method": label,
        "run": " ".join(one.run for one in manifests),
        "num_seeds": len(manifests),
        "prompt_set": prompt_set,
        "step": step,
        "kind": figure.kind,
        "measure": figure.measure,
        "version": figure.version,
        "role": role,
        "n": figure.n,
        "base": figure.base,
        "p": figure.p,
        "flag": "",
    }
    for name, interval, estimate in (
        ("value", "ci", figure.value),
        ("difference", "difference_ci", figure.difference),
        ("win_rate", "win_ci", figure.win_rate),
    ):
        row |= {name: estimate.value, f"{interval}_low": estimate.low, f"{interval}_high": estimate.high}
    return {name: row[name] for name in DIAGNOSTIC_COLUMNS}
