"""`turning_points.csv`: after how much training the truth stops to follow the reward (Goodhart's law)."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alignbench.report.columns import TableRow
from alignbench.report.curves.read import read_validation_rows
from alignbench.report.labels import recipe_labels
from alignbench.statistics.turning_point import turning_point
from alignbench.store.image_records import read_prompts
from alignbench.store.run_folder import RunFolder
from alignbench.store.scores import Scores

MIN_POINTS = 3  # with the start; fewer show no turn


@dataclass(frozen=True)
class ValidationCurve:
    """What one evaluator said of the images that a recipe made while it trained, over all its training seeds.

    Attributes:
        trained_on: whether training followed the evaluator, or it learned from the same data.
        network_passes: at each point, the mean over the seeds, [L].
        wins: 1 for an image that is better than that of the start from the same noise, 0.5 for a tie, [S, L, N].
        prompts: text of the prompt of each image, N of them.
    """

    model: str
    method: str
    runs: tuple[str, ...]
    prompt_set: str
    evaluator: str
    version: str
    trained_on: bool
    network_passes: np.ndarray
    wins: np.ndarray
    prompts: tuple[str, ...]

    @property
    def rates(self) -> np.ndarray:
        """Share of images won at each point, [L]."""
        return self.wins.mean(axis=(0, 2))


def validation_curves(folders: Sequence[RunFolder]) -> list[ValidationCurve]:
    """Return the curves of the recipes of some runs that were validated at least twice while they trained.

    Seeds of a recipe count point by point; those beyond the shortest of them are left out.

    Raises:
        ResultsError: scores are not as their run wrote them.
    """
    labels = recipe_labels(folders)
    recipes: dict[tuple[str, str], list[RunFolder]] = defaultdict(list)
    for folder in folders:
        if folder.validation_table.exists() and folder.completed("train"):
            recipes[folder.manifest.model, folder.manifest.recipe_hash].append(folder)
    found = []
    for (model, recipe), runs in sorted(recipes.items()):
        runs.sort(key=lambda run: run.manifest.seed or 0)
        found += _curves(model, labels[model, recipe], runs)
    return sorted(found, key=lambda one: (one.model, one.method, one.prompt_set, one.evaluator, one.version))


def turning_points(curves: Sequence[ValidationCurve]) -> list[TableRow]:
    """Return the rows of `turning_points.csv`, one for each curve."""
    rows = []
    for curve in curves:
        point = turning_point(curve.wins, curve.prompts)
        passes = [float(one) for one in curve.network_passes]
        rows.append(
            {
                "model": curve.model, "method": curve.method, "run": " ".join(curve.runs), "num_seeds": len(curve.runs),
                "prompt_set": curve.prompt_set, "evaluator": curve.evaluator, "version": curve.version,
                "trained_on": curve.trained_on, "n": curve.wins.shape[0] * curve.wins.shape[2], "points": len(passes),
                "peak_passes": passes[point.peak], "peak_passes_low": passes[point.first],
                "peak_passes_high": passes[point.last], "end_passes": passes[-1],
                "peak_win_rate": float(curve.rates[point.peak]), "end_win_rate": float(curve.rates[-1]),
                "drop": point.drop.value, "drop_ci_low": point.drop.low, "drop_ci_high": point.drop.high,
                "turned": point.turned,
            }
        )  # fmt: skip
    return rows


def _curves(model: str, label: str, runs: Sequence[RunFolder]) -> Iterator[ValidationCurve]:
    of_runs = [_scores(run) for run in runs]
    num_points = min(len(points) for points in of_runs)
    if num_points < MIN_POINTS:
        return
    shared = set.intersection(*(set(files) for points in of_runs for _, files in points[:num_points]))
    for key in sorted(shared):
        prompt_set, _, evaluator = key
        read = [[Scores.read(files[key]) for _, files in points[:num_points]] for points in of_runs]
        if any(len({one.info for one in row}) > 1 for row in read):
            continue  # scored in several ways, which `looks_left_out` names
        scores = np.array([[one.score for one in row] for row in read], dtype=np.float64)
        sign = 1 if read[0][0].info.higher_is_better else -1
        gain = sign * (scores - scores[:, :1])
        name, _, version = evaluator.rpartition("@")
        images = RunFolder(of_runs[0][0][1][key].parents[3]).images(prompt_set, key[1])
        texts = {one.prompt_id: one.prompt for one in read_prompts(images)}
        yield ValidationCurve(
            model=model,
            method=label,
            runs=tuple(run.name for run in runs),
            prompt_set=prompt_set,
            evaluator=name,
            version=version,
            trained_on=any(name in run.manifest.trained_on for run in runs),
            network_passes=np.mean([[passes for passes, _ in points[:num_points]] for points in of_runs], axis=0),
            wins=np.where(gain == 0, 0.5, gain > 0),
            prompts=tuple(texts[one] for one in read[0][0].prompt_id),
        )


def _scores(run: RunFolder) -> list[tuple[float, dict[tuple[str, str, str], Path]]]:
    """Return each point of a run: its network passes, and the score file by prompt set, sampling and evaluator.

    None where the run was validated by a version that did not note the passes.
    """
    rows = read_validation_rows(run.validation_table)
    passes = {int(row["step"]): row["network_passes"] for row in rows if row["network_passes"] is not None}
    points = []
    for step, at in sorted(passes.items()):
        folder = run.path / "validation" / f"step-{step}" / "scores"
        files = {(*file.parts[-3:-1], file.stem): file for file in folder.glob("*/*/*.parquet")}
        points.append((at, files))
    return points
