"""Build `leaderboard.csv` and `win_rates.csv` from all run folders of a results root.

Figures are compared only between runs of one model on the same prompt set and sampling, by one version of an evaluator.
Runs of the same recipe with several training seeds are one row. P-values are Holm-adjusted over all rows of one model
and prompt set. The same inputs give the same bytes.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from alignbench import statistics
from alignbench.files import write_csv
from alignbench.results import (
    BUDGET_COLUMNS,
    LEADERBOARD_COLUMNS,
    WIN_RATE_COLUMNS,
    Manifest,
    PromptRecord,
    ResultsError,
    RunFolder,
    SamplingRecord,
    ScoreInfo,
    Scores,
    read_prompts,
    read_sampling,
    run_folders,
)

BASE = "base"
ALL = "all"

Row = dict[str, Any]


@dataclass(frozen=True)
class Tables:
    """What the report shows.

    Attributes:
        leaderboard, win_rates: rows with the columns of `results.LEADERBOARD_COLUMNS` and `WIN_RATE_COLUMNS`.
        evaluators: (name, version) -> direction and display scale.
    """

    leaderboard: list[Row]
    win_rates: list[Row]
    evaluators: dict[tuple[str, str], ScoreInfo]

    def write(self, root: Path) -> None:
        """Write both tables under the results root."""
        write_csv(Path(root) / "leaderboard.csv", LEADERBOARD_COLUMNS, self.leaderboard)
        write_csv(Path(root) / "win_rates.csv", WIN_RATE_COLUMNS, self.win_rates)


@dataclass(frozen=True)
class Measurement:
    """One run, scored on one prompt set under one sampling by one evaluator."""

    manifest: Manifest
    sampling: SamplingRecord
    sampling_hash: str
    prompts: dict[str, PromptRecord]
    scores: Scores

    @cached_property
    def by_image(self) -> dict[tuple[str, int], float]:
        keys = zip(self.scores.prompt_id.tolist(), self.scores.image.tolist(), strict=True)
        return dict(zip(keys, self.scores.score.tolist(), strict=True))


@dataclass(frozen=True)
class Contender:
    """The repetitions of one recipe with different training seeds, in the order of their seeds."""

    label: str
    runs: tuple[Measurement, ...]

    @cached_property
    def images(self) -> list[tuple[str, int]]:
        """The images that all repetitions have a score for, sorted."""
        return sorted(set.intersection(*(set(run.by_image) for run in self.runs)))

    def scores(self, images: Sequence[tuple[str, int]]) -> np.ndarray:
        """Scores of these images, [S, N]."""
        return np.array([[run.by_image[image] for image in images] for run in self.runs])

    @property
    def subset(self) -> bool:
        short = len({prompt_id for prompt_id, _ in self.images}) < self.runs[0].sampling.full_size
        return short or any(run.sampling.subset for run in self.runs)


class Bench:
    """All contenders of one model on one prompt set and sampling by one evaluator."""

    def __init__(self, name: str, contenders: list[Contender], resamplings: dict[Hashable, statistics.Resampling]):
        self.prompt_set = name
        self.contenders = sorted(contenders, key=lambda contender: (contender.label != BASE, contender.label))
        self.resamplings = resamplings
        self.info = contenders[0].runs[0].scores.info
        self.model = contenders[0].runs[0].manifest.model
        self.prompts = self._agreed_prompts()

    def _agreed_prompts(self) -> dict[str, PromptRecord]:
        prompts: dict[str, PromptRecord] = {}
        for run in (run for contender in self.contenders for run in contender.runs):
            if run.scores.info != self.info:
                raise ResultsError(
                    f"{run.manifest.run} was scored as {run.scores.info}, other runs of {self.model} as {self.info}; "
                    "score them alike"
                )
            for prompt_id, record in run.prompts.items():
                if prompts.setdefault(prompt_id, record).prompt != record.prompt:
                    raise ResultsError(
                        f"prompt {prompt_id} of {self.prompt_set} reads {record.prompt!r} in {run.manifest.run} "
                        f"and {prompts[prompt_id].prompt!r} elsewhere; generate both from the same prompt set"
                    )
        return prompts

    @property
    def groups(self) -> list[str]:
        return [ALL, *sorted({group for record in self.prompts.values() for group in record.groups} - {ALL})]

    def within(self, group: str, images: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
        return [image for image in images if group == ALL or group in self.prompts[image[0]].groups]

    def resampling(self, images: Sequence[tuple[str, int]]) -> statistics.Resampling:
        clusters = tuple(self.prompts[prompt_id].prompt for prompt_id, _ in images)
        if clusters not in self.resamplings:
            self.resamplings[clusters] = statistics.Resampling(clusters)
        return self.resamplings[clusters]

    def compare(self, a: Contender, b: Contender, group: str) -> statistics.Comparison | None:
        """Compare on the images that both have; None where they share none."""
        images = self.within(group, sorted(set(a.images) & set(b.images)))
        if not images:
            return None
        direction = 1 if self.info.higher_is_better else -1
        scores_a, scores_b = direction * a.scores(images), direction * b.scores(images)
        return statistics.compare(scores_a, scores_b, self.resampling(images))

    def rows(self) -> tuple[list[Row], list[Row]]:
        """Return the leaderboard rows and the win-rate rows."""
        leaderboard, win_rates = [], []
        for group in self.groups:
            over_base = {}
            for b, a in combinations(self.contenders, 2):  # base comes first, so it is never a
                result = self.compare(a, b, group)
                if result is not None:
                    win_rates.append(self._win_rate_row(group, a, b, result))
                    if b.label == BASE:
                        over_base[a.label] = result
            for contender in self.contenders:
                images = self.within(group, contender.images)
                if images:
                    leaderboard.append(self._row(group, contender, images, over_base.get(contender.label)))
        return leaderboard, win_rates

    def _win_rate_row(self, group: str, a: Contender, b: Contender, result: statistics.Comparison) -> Row:
        return {
            "model": self.model,
            "prompt_set": self.prompt_set,
            "group": group,
            "evaluator": self.info.evaluator,
            "method_a": a.label,
            "method_b": b.label,
            "n": result.n,
            "wins": result.wins,
            "ties": result.ties,
            **_estimate("win_rate", "ci", result.win_rate),
            "p_win": result.p_win,
            "p_gain": result.p_gain,
        }

    def _row(
        self,
        group: str,
        contender: Contender,
        images: Sequence[tuple[str, int]],
        over_base: statistics.Comparison | None,
    ) -> Row:
        scores, resampling = contender.scores(images), self.resampling(images)
        manifests = [run.manifest for run in contender.runs]
        nothing = statistics.Estimate(float("nan"), float("nan"), float("nan"))
        return {
            "model": self.model,
            "method": contender.label,
            "run": " ".join(manifest.run for manifest in manifests),
            "num_seeds": len(manifests),
            "seed_sd": float(np.median(scores, axis=1).std(ddof=1)) if len(manifests) > 1 else None,
            "prompt_set": self.prompt_set,
            "group": group,
            "evaluator": self.info.evaluator,
            "version": self.info.version,
            "n": scores.size,
            "subset": contender.subset,
            **_estimate("median", "median_ci", statistics.median(scores, resampling)),
            **_estimate("mean", "mean_ci", statistics.mean(scores, resampling)),
            **_estimate("win_rate_vs_base", "win_ci", over_base.win_rate if over_base else nothing),
            "p_win": over_base.p_win if over_base else None,
            "p_gain": over_base.p_gain if over_base else None,
            "trained_on": any(
                self.info.evaluator in manifest.trained_on
                or self.prompt_set.partition("@")[0] in manifest.trained_prompt_sets
                for manifest in manifests
            ),
            **_mean_budget(manifests),
        }


def _estimate(name: str, interval: str, estimate: statistics.Estimate) -> Row:
    return {name: estimate.value, f"{interval}_low": estimate.low, f"{interval}_high": estimate.high}


def _mean_budget(manifests: list[Manifest]) -> Row:
    """Mean over the repetitions; the largest for memory."""
    budgets = [asdict(manifest.budget) for manifest in manifests]
    means = {name: float(np.mean([budget[name] for budget in budgets])) for name in BUDGET_COLUMNS}
    return {**means, "peak_memory_gib": max(budget["peak_memory_gib"] for budget in budgets)}


def build(root: Path) -> Tables:
    """Build the tables of all runs under a results root; what a stage has not finished yet is left out."""
    folders = run_folders(root)
    labels = _labels([folder.manifest for folder in folders])
    cells: dict[tuple[str, str, str, str, str], list[Measurement]] = defaultdict(list)
    for folder in folders:
        for entry in measurements(folder):
            info = entry.scores.info
            place = (entry.manifest.model, entry.sampling.prompt_set, entry.sampling_hash)
            cells[(*place, info.evaluator, info.version)].append(entry)
    samplings: dict[tuple[str, str], set[str]] = defaultdict(set)
    for model, prompt_set, sampling_hash, *_ in cells:
        samplings[model, prompt_set].add(sampling_hash)
    leaderboard, win_rates, evaluators = [], [], {}
    resamplings: dict[Hashable, statistics.Resampling] = {}
    for (model, prompt_set, sampling_hash, *_), entries in sorted(cells.items()):
        sampled_once = len(samplings[model, prompt_set]) == 1
        name = prompt_set if sampled_once else f"{prompt_set}@{sampling_hash}"
        bench = Bench(name, _contenders(entries, labels), resamplings)
        evaluators[bench.info.evaluator, bench.info.version] = bench.info
        for table, rows in zip((leaderboard, win_rates), bench.rows(), strict=True):
            table.extend(rows)
    return Tables(_adjusted(leaderboard), _adjusted(win_rates), evaluators)


def measurements(folder: RunFolder) -> list[Measurement]:
    """Read all finished scores of one run, each checked against the run's ledger."""
    manifest = folder.manifest
    found = []
    image_folders: dict[Path, tuple[SamplingRecord, dict[str, PromptRecord]]] = {}
    for name in sorted(manifest.files):
        parts = PurePosixPath(name).parts
        if len(parts) != 4 or parts[0] != "scores" or not name.endswith(".parquet"):
            continue
        images = folder.images(parts[1], parts[2])
        if images not in image_folders:
            for file in ("prompts.jsonl", "sampling.json"):
                folder.verified(images / file)
            records = {record.prompt_id: record for record in read_prompts(images)}
            image_folders[images] = (read_sampling(images), records)
        sampling, prompts = image_folders[images]
        scores = Scores.read(folder.verified(folder.path / name))
        unknown = set(scores.prompt_id.tolist()) - set(prompts)
        if unknown:
            raise ResultsError(
                f"{folder.path / name} scores prompts without images: {sorted(unknown)[:3]}; score again"
            )
        found.append(Measurement(manifest, sampling, parts[2], prompts, scores))
    return found


def _labels(manifests: Iterable[Manifest]) -> dict[tuple[str, str], str]:
    """Name each (model, recipe): the method, with the recipe's hash where a model was trained by it in two ways."""
    recipes: dict[tuple[str, str], set[str]] = defaultdict(set)
    for manifest in manifests:
        recipes[manifest.model, manifest.method].add(manifest.recipe_hash)
    labels = {}
    for (model, method), hashes in recipes.items():
        if method == BASE and len(hashes) > 1:
            raise ResultsError(
                f"model {model} has {len(hashes)} base runs with different configurations; keep one of their folders"
            )
        for recipe in hashes:
            labels[model, recipe] = method if len(hashes) == 1 else f"{method}@{recipe[:8]}"
    return labels


def _contenders(entries: list[Measurement], labels: dict[tuple[str, str], str]) -> list[Contender]:
    """Join the repetitions of each recipe."""
    recipes: dict[str, list[Measurement]] = defaultdict(list)
    for entry in entries:
        recipes[labels[entry.manifest.model, entry.manifest.recipe_hash]].append(entry)
    for runs in recipes.values():
        runs.sort(key=lambda run: -1 if run.manifest.seed is None else run.manifest.seed)
        if len({run.manifest.seed for run in runs}) < len(runs):
            names = ", ".join(run.manifest.run for run in runs)
            raise ResultsError(
                f"{names} are the same recipe, two of them with the same seed; keep one of those folders"
            )
    return [Contender(label, tuple(runs)) for label, runs in recipes.items()]


def _adjusted(rows: list[Row]) -> list[Row]:
    """Replace the p-values by Holm's, each kind over all rows of one model and prompt set."""
    families: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        families[row["model"], row["prompt_set"]].append(row)
    for family in families.values():
        for name in ("p_win", "p_gain"):
            raw = [np.nan if row[name] is None else row[name] for row in family]
            for row, p in zip(family, statistics.holm(raw), strict=True):
                row[name] = float(p)
    return rows
