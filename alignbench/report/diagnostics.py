"""The rows of `diagnostics.csv`: what a policy gained by what it trained on, and what happened to its images meanwhile.

Evaluators' means, statistics of images, their diversity and measures of them as sets, each over base, and the distance
of the weights; and the same at every look of a run's validation, over the start. Images are measured once; see
`alignbench.store.image_statistics_table`.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from alignbench.report.columns import DIAGNOSTIC_COLUMNS, TableRow
from alignbench.report.comparison import ALL, MethodComparison
from alignbench.report.conflicts.scores import Conflicts, conflicts_within
from alignbench.report.contenders import Contender, Measurement
from alignbench.report.hacking import HELD_OUT, TRAINED, findings, p_of_gain
from alignbench.report.image_measures.changes import images_changed
from alignbench.report.image_measures.figures import (
    NOTHING,
    Figure,
    RunsByMethod,
    adjusted,
    diversity_figures,
    features_alike,
    figures_of,
    image_figures,
    set_figures,
)
from alignbench.report.image_measures.taken import Taken
from alignbench.report.tables import ScoreReader, Tables
from alignbench.statistics.intervals import summary
from alignbench.statistics.resampling import Estimate, Resamplings
from alignbench.store.manifest import BASE, Manifest
from alignbench.store.run_folder import RunFolder
from alignbench.store.scores import ScoreInfo

LOOK_AGAIN = "to have all looks scored alike, delete the run folder and repeat its command"
WEIGHT_DISTANCE, WEIGHT_DISTANCE_VERSION = "weight_distance", "1"


def diagnose(root: Path, tables: Tables, num_resamples: int, reader: ScoreReader | None = None) -> list[TableRow]:
    """Return the rows of all runs under a results root, measuring the images that were not measured yet."""
    resamplings = Resamplings(num_resamples)
    rows: list[TableRow] = []
    for (model, prompt_set), runs in _runs(root, tables).items():
        kinds = (image_figures, diversity_figures, set_figures)
        figures = adjusted([figure for of_kind in kinds for figure in of_kind(runs, resamplings)])
        rows += _image_rows(tables, model, prompt_set, runs, figures)
        rows += _evaluator_rows(tables, model, prompt_set)
    for name, label in tables.labels.items():
        folder = RunFolder(Path(root) / name)
        manifest = folder.manifest
        rows += _weight_rows(manifest, label, None, manifest.weight_distance)
        rows += validation_rows(folder, manifest, label, resamplings, reader or ScoreReader())
    return sorted(rows, key=_sort_key)


def features_left_out(root: Path, tables: Tables) -> dict[str, str]:
    """Return why features of some runs are in no row, by their folder in the results; see `features_alike`."""
    found: dict[str, str] = {}
    for runs in _runs(root, tables).values():
        found |= features_alike(runs)[1]
    return found


def looks_left_out(root: Path, tables: Tables, reader: ScoreReader) -> dict[str, str]:
    """Return why scores of some looks at runs are in no row, by their path in the results."""
    found: dict[str, str] = {}
    for name in tables.labels:
        for of_steps in _looks(RunFolder(Path(root) / name), reader).values():
            found |= _contradicting(of_steps).left_out(f"{name}/validation/")
    return found


def _sort_key(row: TableRow) -> tuple:
    kinds = ("evaluator", "image", "diversity", "set", "weights")
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


def _image_rows(
    tables: Tables, model: str, prompt_set: str, runs: RunsByMethod, figures: Sequence[Figure]
) -> Iterator[TableRow]:
    manifests = {label: [one.scored[0].manifest for one in taken] for label, taken in runs.items()}
    told = {
        (changed.method, figure.measure): str(changed)
        for changed in images_changed(tables, model, prompt_set, figures)
        for figure in changed.moved
    }
    for one in figures:
        row = _row(manifests[one.label], one.label, prompt_set, one)
        yield {**row, "flag": told.get((one.label, one.measure), "")}


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
            _base_mean(contenders, row["method"], tables.evaluators[key]) if comparison else float("nan"),
            gain,
            p_of_gain(row) if comparison else float("nan"),
            Estimate(row["win_rate_vs_base"], row["win_ci_low"], row["win_ci_high"]),
        )
        finding = told.get((model, prompt_set, row["method"]))
        flag = str(finding) if finding and key in finding.evaluators else ""
        manifests = [run.manifest for run in contenders[row["method"]].runs]
        yield {**_row(manifests, row["method"], prompt_set, figure), "flag": flag}


def _base_mean(contenders: Mapping[str, Contender], method: str, info: ScoreInfo) -> float:
    """Return base's mean score on the images that it shares with a method, over groups if the evaluator says so."""
    base = contenders[BASE]
    images = sorted(base.image_set & contenders[method].image_set)
    of_groups = info.overall == "groups"
    groups = [base.runs[0].prompts[prompt_id].groups[:1] for prompt_id, _ in images] if of_groups else None
    return summary(base.scores(images).mean(axis=0), "mean", groups)


# ---- while a run trains


def validation_rows(
    folder: RunFolder, manifest: Manifest, label: str, resamplings: Resamplings, reader: ScoreReader
) -> Iterator[TableRow]:
    """Yield the figures of each look at a run, over those of its start, as far as the looks are still there."""
    for path in folder.validation_folders:
        yield from _weight_rows(manifest, label, _step(path), RunFolder(path).manifest.weight_distance)
    for (prompt_set, _), of_steps in sorted(_looks(folder, reader).items()):
        contradicting = _contradicting(of_steps)
        taken = {step: tuple(one for one in of if one not in contradicting) for step, of in of_steps.items()}
        steps = [step for step, scored in taken.items() if scored]
        names = {step: BASE if step == 0 else str(step) for step in steps}
        looks = {step: RunFolder(folder.path / "validation" / f"step-{step}") for step in steps}
        runs = {names[step]: [Taken(looks[step], taken[step])] for step in steps}
        figures = adjusted(
            [
                *_scored_figures(runs, resamplings),
                *image_figures(runs, resamplings),
                *diversity_figures(runs, resamplings),
            ]
        )
        for figure in figures:
            step = 0 if figure.label == BASE else int(figure.label)
            yield _row([manifest], label, prompt_set, figure, step)


def _looks(folder: RunFolder, reader: ScoreReader) -> dict[tuple[str, str], dict[int, list[Measurement]]]:
    """Return what was scored of each look at a run: by prompt set and hash of the sampling, then by step in order."""
    found: dict[tuple[str, str], dict[int, list[Measurement]]] = defaultdict(lambda: defaultdict(list))
    for path in folder.validation_folders:
        for entry in reader.measurements(RunFolder(path)):
            found[entry.sampling.prompt_set, entry.sampling_hash][_step(path)].append(entry)
    return found


def _contradicting(of_steps: Mapping[int, Sequence[Measurement]]) -> Conflicts:
    """Return which scores of the looks at a run cannot be compared with those of its start."""
    of_start = {id(entry) for entry in of_steps.get(0, ())}
    return conflicts_within(chain.from_iterable(of_steps.values()), lambda entry: id(entry) in of_start, LOOK_AGAIN)


def _step(look: Path) -> int:
    return int(look.name.removeprefix("step-"))


def _scored_figures(runs: RunsByMethod, resamplings: Resamplings) -> Iterator[Figure]:
    by_evaluator: dict[tuple[str, str], list[Contender]] = defaultdict(list)
    for label, [taken] in runs.items():
        for entry in taken.scored:
            by_evaluator[entry.scores.info.evaluator, entry.scores.info.version].append(Contender(label, (entry,)))
    for contenders in by_evaluator.values():
        yield from figures_of(MethodComparison("", contenders, resamplings), "evaluator")


# ---- rows


def _weight_rows(manifest: Manifest, label: str, step: int | None, distance: float | None) -> Iterator[TableRow]:
    if distance is not None:
        value = Estimate(distance, float("nan"), float("nan"))
        figure = Figure(label, "weights", WEIGHT_DISTANCE, WEIGHT_DISTANCE_VERSION, 1, value)
        yield _row([manifest], label, "", figure, step)


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
